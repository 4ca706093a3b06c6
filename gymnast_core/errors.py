"""The error tree: the type of an error decides what has to act on it.

Raise in the core, translate once at the edge (a gRPC status, a ROS service response, a CLI line).
Every message names the offending value and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class GymnastError(Exception):
    """Root of every error this project raises on purpose.

    Attributes:
        FIELDS: names of what an error of this class holds beside its message: given by keyword, JSON values, and
            carried over the wire.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args: object, **fields: object) -> None:
        super().__init__(*args)
        for name in self.FIELDS:
            setattr(self, name, fields.pop(name, None))
        if fields:
            raise TypeError(f"{type(self).__name__} has no {', '.join(fields)}")


class ContractError(GymnastError):
    """A caller broke a contract: our bug, never retried."""


class ShapeError(ContractError):
    """An array has the wrong shape or dtype."""


class EpisodeOverError(ContractError):
    """A finished batch was stepped; call reset() first."""


class ConfigError(GymnastError):
    """A user-supplied setting is invalid; the message names the setting and the valid range."""


class NotPossibleError(GymnastError):
    """An action is not possible now; the message has the reason and what is possible."""


class OccupiedError(NotPossibleError):
    """Something else has what this needs; worth trying again once that has ended, which the message names."""


class OutdatedError(NotPossibleError):
    """A decision was taken on a state that has changed since: look again, then decide.

    Attributes:
        stage: where it is now.
        revision: as which it may be decided on now.
    """

    FIELDS = ("stage", "revision")
    stage: str
    revision: int


class JobEndedError(GymnastError):
    """A job failed or was cancelled; the message is its last word."""


class SafetyError(GymnastError):
    """The arm must stop."""


class ActionOutOfBoundsError(SafetyError):
    """A commanded value is not finite or exceeds a limit."""


class StaleCommandError(SafetyError):
    """A command or an observation is older than the deadman allows."""


class EstopLatchedError(SafetyError):
    """The emergency stop is latched; an operator must re-arm explicitly."""


class UnreachableError(SafetyError):
    """Inverse kinematics found no joint solution within limits."""


class PolicyFailedError(SafetyError):
    """A policy raised, or its answer is no action; the arm holds."""


class StorageError(GymnastError):
    """A file, database or disk failed, or holds something it should not."""


class CorruptError(StorageError):
    """Stored bytes do not match their digest or format."""


class DiskFullError(StorageError):
    """No space left; the operator must free some. Nothing was dropped."""


class CheckpointError(StorageError):
    """A checkpoint folder is incomplete, altered, or of the wrong kind."""


class BridgeError(GymnastError):
    """The link between robot and trainer failed."""


class TransientBridgeError(BridgeError):
    """Worth retrying: the peer is away, busy, or the link broke."""


class EnvLostError(TransientBridgeError):
    """An environment failed or ended in the middle of an episode; the next reset() may start it anew."""


class RejectedBridgeError(BridgeError):
    """The peer understood and refused; retrying the same call cannot help."""


class NotTrustedError(GymnastError):
    """Not trusted, not better, or tainted: an audit outside its bounds, a trial not won, an episode withdrawn."""
