"""What an episode file holds: topics, standard ROS 2 message types and their definitions."""

from __future__ import annotations

import datetime
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gymnast_core.bounds import checked_text, parsed_object
from gymnast_core.errors import ContractError, CorruptError
from gymnast_core.types import Outcome

HEADER_TOPIC = "/episode/header"
OUTCOME_TOPIC = "/episode/outcome"
INSTRUCTION_TOPIC = "/instruction"
PROPRIO_TOPIC = "/proprio"
POSE_TOPIC = "/end_effector_pose"
JOINTS_TOPIC = "/joint_states"
COMMANDED_TOPIC = "/action/commanded"
REQUESTED_TOPIC = "/action/requested"
VERSION_TOPIC = "/policy_version"
ANNOTATION_TOPIC = "/annotation"
MAX_ANNOTATION_CHARACTERS = 2000
MAX_INSTRUCTION_CHARACTERS = 4096
MAX_DOCUMENT_CHARACTERS = 512 * 1024
IMAGE_PREFIX = "/camera/"
IMAGE_SUFFIX = "/image/compressed"

ACTION_NAMES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
PROPRIO_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
SCHEMA_VERSION = "gymnast-episode-1"

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RULE = "=" * 80 + "\n"
_HEADER_DEF = "std_msgs/Header header\n"
_HEADER_PARTS = (
    f"{_RULE}MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
    f"{_RULE}MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
)
DEFINITIONS: Mapping[str, str] = {
    "std_msgs/msg/String": "string data\n",
    "sensor_msgs/msg/CompressedImage": f"{_HEADER_DEF}string format\nuint8[] data\n{_HEADER_PARTS}",
    "sensor_msgs/msg/JointState": (
        f"{_HEADER_DEF}string[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n{_HEADER_PARTS}"
    ),
    "geometry_msgs/msg/PoseStamped": (
        f"{_HEADER_DEF}geometry_msgs/Pose pose\n{_HEADER_PARTS}"
        f"{_RULE}MSG: geometry_msgs/Pose\ngeometry_msgs/Point position\ngeometry_msgs/Quaternion orientation\n"
        f"{_RULE}MSG: geometry_msgs/Point\nfloat64 x\nfloat64 y\nfloat64 z\n"
        f"{_RULE}MSG: geometry_msgs/Quaternion\nfloat64 x\nfloat64 y\nfloat64 z\nfloat64 w\n"
    ),
}
TOPIC_TYPES: Mapping[str, str] = {
    HEADER_TOPIC: "std_msgs/msg/String",
    OUTCOME_TOPIC: "std_msgs/msg/String",
    INSTRUCTION_TOPIC: "std_msgs/msg/String",
    VERSION_TOPIC: "std_msgs/msg/String",
    ANNOTATION_TOPIC: "std_msgs/msg/String",
    PROPRIO_TOPIC: "sensor_msgs/msg/JointState",
    JOINTS_TOPIC: "sensor_msgs/msg/JointState",
    COMMANDED_TOPIC: "sensor_msgs/msg/JointState",
    REQUESTED_TOPIC: "sensor_msgs/msg/JointState",
    POSE_TOPIC: "geometry_msgs/msg/PoseStamped",
}


def image_topic(camera: str) -> str:
    """The topic of a camera's frames."""
    return f"{IMAGE_PREFIX}{camera}{IMAGE_SUFFIX}"


def topic_type(topic: str) -> str:
    """The ROS message type carried by a topic of an episode."""
    return TOPIC_TYPES.get(topic, "sensor_msgs/msg/CompressedImage")


def checked_id(value: object, what: str = "id") -> str:
    """Return an id that is safe as a file name.

    Raises:
        ContractError: anything but one to 64 of A-Z a-z 0-9 _ -.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ContractError(f"{what} {value!r} must be 1 to 64 characters of A-Z a-z 0-9 _ -")
    return value


def new_episode_id(prefix: str = "ep") -> str:
    """Return an id that was never used: the time to the microsecond for people and order, 80 random bits beside it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return checked_id(f"{prefix}-{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(10)}", "episode id")


@dataclass(frozen=True)
class EpisodeHeader:
    """What is known of an episode before its first step.

    Attributes:
        episode_id: never reused, [A-Za-z0-9_-]{1,64}.
        instruction: what the arm was asked to do.
        robot: which arm.
        created_ns: wall clock at the reset, nanoseconds since 1970.
        cameras: camera names in order.
        control_hz: control rate.
        seed: of the start state, where there is one.
        metadata: JSON values: task, scene, evaluation, gate limits.
        schema: version of this layout.
    """

    episode_id: str
    instruction: str
    robot: str
    created_ns: int
    cameras: tuple[str, ...]
    control_hz: float = 5.0
    seed: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Refuse ids that cannot be file names, and instructions nobody reads out."""
        checked_id(self.episode_id, "episode id")
        for camera in self.cameras:
            checked_id(camera, "camera")
        if isinstance(self.instruction, str) and len(self.instruction) > MAX_INSTRUCTION_CHARACTERS:
            raise ContractError(
                f"an instruction of {len(self.instruction)} characters ({self.instruction[:40]!a}...); at most "
                f"{MAX_INSTRUCTION_CHARACTERS} are recorded"
            )

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> EpisodeHeader:
        """Parse a header.

        Raises:
            CorruptError: not JSON, a field missing, unknown or of a wrong type, or an unknown schema.
        """
        try:
            fields = parsed_object(text, "episode header", MAX_DOCUMENT_CHARACTERS)
            header = EpisodeHeader(**{**fields, "cameras": tuple(fields["cameras"])})
        except (TypeError, KeyError, ContractError) as error:
            raise CorruptError(f"unreadable episode header: {error}") from error
        kinds = (
            (header.instruction, str),
            (header.robot, str),
            (header.created_ns, int),
            (header.control_hz, (int, float)),
            (header.seed, (int, type(None))),
            (header.metadata, dict),
        )
        if header.schema != SCHEMA_VERSION or not all(isinstance(value, kind) for value, kind in kinds):
            raise CorruptError(f"episode header of schema {header.schema!r} is not a well-formed {SCHEMA_VERSION!r}")
        if not 0 <= header.created_ns < 1 << 63 or not -(1 << 63) <= (header.seed or 0) < 1 << 64:
            raise CorruptError(f"episode header with created_ns {header.created_ns} and seed {header.seed}")
        checked_text(header.instruction, "instruction", MAX_INSTRUCTION_CHARACTERS)
        return header


@dataclass(frozen=True)
class EpisodeEnd:
    """What is known of an episode after its last step.

    Attributes:
        outcome: label.
        labelled_by: author of the label, empty when unlabelled.
        truncated_reason: empty when it ran to its end.
        metadata: JSON values learned on the way: gate counts.
    """

    outcome: Outcome = Outcome.UNLABELLED
    labelled_by: str = ""
    truncated_reason: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({**asdict(self), "outcome": self.outcome.value}, sort_keys=True, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> EpisodeEnd:
        """Parse an end record.

        Raises:
            CorruptError: not JSON, an unknown outcome, or a wrong field.
        """
        try:
            fields = parsed_object(text, "episode end", MAX_DOCUMENT_CHARACTERS)
            end = EpisodeEnd(**{**fields, "outcome": Outcome(fields["outcome"])})
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptError(f"unreadable episode end: {error}") from error
        if not isinstance(end.labelled_by, str) or not isinstance(end.truncated_reason, str):
            raise CorruptError("labelled_by and truncated_reason of an episode end must be text")
        if not isinstance(end.metadata, dict):
            raise CorruptError("metadata of an episode end must be a JSON object")
        return end


@dataclass(frozen=True)
class Annotation:
    """What somebody noted while an episode ran.

    Attributes:
        stamp_ns: of the newest observation at that moment.
        step: actions done by then.
        text: free words or tags.
        by: "operator:<name>".
    """

    stamp_ns: int
    step: int
    text: str
    by: str

    def __post_init__(self) -> None:
        """Refuse an empty note, and one that is too long."""
        if not isinstance(self.text, str) or not 0 < len(self.text.strip()) <= MAX_ANNOTATION_CHARACTERS:
            raise ContractError(f"an annotation needs 1 to {MAX_ANNOTATION_CHARACTERS} characters")

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Annotation:
        """Parse an annotation.

        Raises:
            CorruptError: not JSON, or a field missing, unknown or of a wrong type.
        """
        try:
            note = Annotation(**parsed_object(text, "annotation", MAX_DOCUMENT_CHARACTERS))
        except (TypeError, ContractError) as error:
            raise CorruptError(f"unreadable annotation: {error}") from error
        if not isinstance(note.stamp_ns, int) or not isinstance(note.step, int) or not isinstance(note.by, str):
            raise CorruptError(f"annotation {note.text[:40]!r} has fields of a wrong type")
        return note
