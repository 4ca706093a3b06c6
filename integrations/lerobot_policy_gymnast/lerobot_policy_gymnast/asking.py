"""Asks PolicyService of a trainer for chunks of actions: gRPC, mutual TLS, never a pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import grpc
import numpy as np
import numpy.typing as npt

from lerobot_policy_gymnast.policy_pb2 import Camera, InferReply, InferRequest

JPEG_QUALITY = 95
"""Of the frames sent: a policy sees them as the trainer sees recorded ones."""
GREETING_S = 10.0
MAX_REPLY_BYTES = 4 << 20
ACTION_DIM = 7


class PolicyNotAnsweredError(ConnectionError):
    """No actions came: the trainer is not there, was too late or refused. The loop that asked must not act."""


class ServedPolicy:
    """The policy of a trainer.

    Args:
        address: host:port.
        identity: folder with cert.pem, key.pem, ca.pem; None is no TLS.
        deadline_s: longest wait for a chunk.

    Raises:
        PolicyNotAnsweredError: nobody greets there.
    """

    def __init__(self, address: str, identity: Path | None, deadline_s: float) -> None:
        self._address, self._deadline_s = address, deadline_s
        options = [("grpc.max_receive_message_length", MAX_REPLY_BYTES)]
        if identity is None:
            self._channel = grpc.insecure_channel(address, options=[*options, ("grpc.enable_http_proxy", 0)])
        else:
            authority, key, certificate = ((identity / name).read_bytes() for name in ("ca.pem", "key.pem", "cert.pem"))
            credentials = grpc.ssl_channel_credentials(authority, key, certificate)
            self._channel = grpc.secure_channel(address, credentials, options=options)
        self._infer = self._channel.stream_stream(
            "/gymnast.v1.PolicyService/Infer",
            request_serializer=InferRequest.SerializeToString,
            response_deserializer=InferReply.FromString,
        )
        hello = self._ask(InferRequest(), max(deadline_s, GREETING_S))
        self.version, self.chunk_length = str(hello.policy_version), int(hello.chunk_length)

    def chunk(
        self,
        frames: Mapping[str, npt.NDArray[np.uint8]],
        proprio_BP: npt.NDArray[np.float32],
        instructions: Sequence[str],
        time_ns: int,
    ) -> npt.NDArray[np.float32]:
        """Return (B, K, 7) actions: deltas of the end effector's target [m, rad], and the gripper (1 open).

        Args:
            frames: camera -> (B, H, W, 3) uint8 RGB.
            proprio_BP: (B, 7) pose of the end effector [m, rad] and gripper.
            instructions: B of them.
            time_ns: when the frames were seen.

        Raises:
            PolicyNotAnsweredError: no answer within the deadline, or one that is no chunk.
        """
        rows = len(instructions)
        request = InferRequest(
            instructions=instructions,
            cameras=[Camera(name=name, jpeg=[_jpeg(frame) for frame in of_rows]) for name, of_rows in frames.items()],
            proprio=proprio_BP.ravel().tolist(),
            time_ns=[time_ns] * rows,
        )
        reply = self._ask(request, self._deadline_s)
        self.version = str(reply.policy_version)
        actions, count = np.array(reply.actions, np.float32), rows * reply.chunk_length * ACTION_DIM
        if not count or actions.size != count or not np.isfinite(actions).all():
            raise PolicyNotAnsweredError(
                f"{self._address} answered with {actions.size} numbers; {count} finite ones make "
                f"{reply.chunk_length} actions"
            )
        return actions.reshape(rows, reply.chunk_length, ACTION_DIM)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def _ask(self, request: InferRequest, within_s: float) -> InferReply:
        """One question, one answer, one stream: what comes too late is never read."""
        request.request_id = 1
        call = self._infer(iter([request]), timeout=within_s)
        try:
            reply = next(call)
        except StopIteration:
            raise PolicyNotAnsweredError(f"{self._address} ended the call without an answer") from None
        except grpc.RpcError as failure:
            raise PolicyNotAnsweredError(
                f"no answer of {self._address} within {within_s} s: {failure.code().name}, {failure.details()}"
            ) from failure
        finally:
            call.cancel()
        if reply.error:
            raise PolicyNotAnsweredError(f"{self._address}: {reply.error}: {reply.message}")
        return reply


def _jpeg(frame: npt.NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"a frame of {frame.shape} {frame.dtype} could not be encoded")
    return bytes(data.tobytes())
