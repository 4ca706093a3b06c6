"""Environments on the wire: messages of env.proto from what they mean, and back within bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gymnast_core.spec import WIDOWX_250S, EnvSpec
from gymnast_core.types import ACTION_DIM, PROPRIO_DIM, FloatArray, Observation, StepResult
from gymnast_core.wire.errors import InvalidMessageError
from gymnast_core.wire.gymnast.v1 import env_pb2

MOST_BYTES = 64 << 20
"""Of one message: 40 rows of 640 x 480 pixels."""
MESSAGE_OPTIONS = (("grpc.max_receive_message_length", MOST_BYTES), ("grpc.max_send_message_length", MOST_BYTES))
UNIX = "unix:"
"""Begins the address of a socket on this machine."""
MOST_PROPRIO = 1e4


def description_of(spec: EnvSpec, instruction: str) -> env_pb2.EnvDescription:
    """Return a spec as a message."""
    robot = spec.robot
    return env_pb2.EnvDescription(
        batch_size=spec.batch_size, cameras=spec.cameras, image_height=spec.image_height, image_width=spec.image_width,
        max_steps=spec.max_steps, robot=robot.name, control_hz=robot.control_hz, instruction=instruction,
        max_translation_m=robot.max_translation_m, max_rotation_rad=robot.max_rotation_rad,
    )  # fmt: skip


def spec_of(found: env_pb2.EnvDescription) -> EnvSpec:
    """Return the spec of a message.

    Raises:
        InvalidMessageError: it describes no environment, or one whose observations are beyond MOST_BYTES.
    """
    limits = (found.control_hz, found.max_translation_m, found.max_rotation_rad)
    sizes = (found.batch_size, found.image_height, found.image_width, found.max_steps)
    pixels = found.batch_size * found.image_height * found.image_width * len(found.cameras)
    if not all(0 < limit < 1e3 for limit in limits) or min(sizes) < 1 or not 0 < 3 * pixels <= MOST_BYTES:
        raise InvalidMessageError(f"no environment has sizes {sizes}, {len(found.cameras)} cameras and limits {limits}")
    robot = replace(
        WIDOWX_250S, name=found.robot[:64], control_hz=found.control_hz, max_translation_m=found.max_translation_m,
        max_rotation_rad=found.max_rotation_rad,
    )  # fmt: skip
    return EnvSpec(
        found.batch_size, tuple(found.cameras), found.image_height, found.image_width, found.max_steps, robot
    )


def message_of(observation: Observation) -> env_pb2.EnvObservation:
    """Return an observation as a message."""
    return env_pb2.EnvObservation(
        pictures=[env_pb2.EnvPicture(rgb=observation.images[camera].tobytes()) for camera in observation.images],
        proprio=observation.proprio_BP.ravel().tolist(), time_ns=observation.time_ns_B.tolist(),
    )  # fmt: skip


def observation_of(found: env_pb2.EnvObservation, spec: EnvSpec) -> Observation:
    """Return the observation of a message.

    Raises:
        InvalidMessageError: it is not the one that the spec promises.
    """
    shape = (spec.batch_size, spec.image_height, spec.image_width, 3)
    lengths = [len(picture.rgb) for picture in found.pictures]
    if lengths != [int(np.prod(shape))] * len(spec.cameras):
        raise InvalidMessageError(f"pictures of {lengths} bytes; {len(spec.cameras)} of {shape} were promised")
    proprio_BP = _rows(found.proprio, spec.batch_size, PROPRIO_DIM, "proprioception")
    if len(found.time_ns) != spec.batch_size:
        raise InvalidMessageError(f"{len(found.time_ns)} times for {spec.batch_size} rows")
    images = {
        camera: np.frombuffer(picture.rgb, np.uint8).reshape(shape)
        for camera, picture in zip(spec.cameras, found.pictures, strict=True)
    }
    return Observation(images, proprio_BP, np.array(found.time_ns, np.int64))


def step_of(found: env_pb2.EnvStepReply, spec: EnvSpec) -> StepResult:
    """Return the step of a message; raises as observation_of()."""
    flags = [list(values) for values in (found.terminated, found.truncated, found.succeeded)]
    if {len(values) for values in flags} != {spec.batch_size}:
        raise InvalidMessageError(f"ends of {[len(values) for values in flags]} rows; there are {spec.batch_size}")
    commanded_BA = _rows(found.commanded, spec.batch_size, ACTION_DIM, "what was commanded")
    ended, cut = (np.array(values, np.bool_) for values in flags[:2])
    return StepResult(observation_of(found.observation, spec), ended, cut, commanded_BA)


def action_of(found: env_pb2.EnvStepRequest, rows: int) -> FloatArray:
    """Return the (B, 7) actions of a request.

    Raises:
        InvalidMessageError: they are not, or not finite.
    """
    return _rows(found.action, rows, ACTION_DIM, "actions")


def _rows(values: object, rows: int, width: int, what: str) -> FloatArray:
    array = np.array(values, np.float32)
    if array.shape != (rows * width,) or not (np.abs(array) <= MOST_PROPRIO).all():  # NaN is not below anything
        raise InvalidMessageError(
            f"{what}: {array.shape} numbers, or none within {MOST_PROPRIO:g}; {rows} x {width} are"
        )
    return array.reshape(rows, width)
