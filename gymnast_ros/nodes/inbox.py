"""Puts together what an arm publishes of one moment: its parts arrive on several topics and share a stamp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from gymnast_core.spec import BASE_FRAME, JOINT_NAMES
from gymnast_core.types import ByteArray
from gymnast_ros.nodes import messages
from gymnast_ros.nodes.arm_port import SILENCE

MOMENTS = 32
"""Kept at most; older ones are dropped."""


class Inbox:
    """Moments by their stamp, and the latched words of arm and gate."""

    def __init__(self) -> None:
        self.description: dict[str, Any] | None = None
        self.gate: dict[str, Any] = {}
        self._moments: dict[int, dict[str, Any]] = {}
        self._parts: frozenset[str] = frozenset()

    def expect(self, cameras: Sequence[str], simulated: bool) -> None:
        """Name the parts that make a moment complete."""
        parts = {"proprio", "joints", "executed", *(f"image:{camera}" for camera in cameras)}
        self._parts = frozenset(parts | {"truth" if simulated else "notes"})

    def on_description(self, message: String) -> None:
        """Take in arm/description; a restarted arm's stamps begin anew, so nothing of the old one may stay."""
        before, self.description = self.description, messages.from_json(message)
        if before is not None and before.get("session") != self.description.get("session"):
            self._moments.clear()

    def on_gate(self, status: dict[str, Any]) -> None:
        """Take in command_gate/status."""
        self.gate = status

    def on_named(self, part: str, message: JointState) -> None:
        """Take in a part that is named values."""
        self._put(messages.to_ns(message.header.stamp), part, message)

    def on_image(self, camera: str, message: Image) -> None:
        """Take in a frame."""
        image: ByteArray = messages.from_image(message)
        self._put(messages.to_ns(message.header.stamp), f"image:{camera}", image)

    def on_joints(self, message: JointState) -> None:
        """Take in the arm's joints; others publish joint_states, too, and name more than these."""
        if tuple(message.name) == JOINT_NAMES and message.header.frame_id == BASE_FRAME:
            self.on_named("joints", message)

    def on_json(self, part: str, message: String) -> None:
        """Take in a part that is JSON with a stamp: the simulator's truth, a real arm's notes."""
        value = messages.from_json(message)
        self._put(int(value["stamp_ns"]), part, value)

    def complete(self, wanted: Callable[[int], bool]) -> int | None:
        """The first complete moment that is wanted."""
        for stamp_ns in sorted(self._moments):
            if wanted(stamp_ns) and self._parts <= self._moments[stamp_ns].keys():
                return stamp_ns
        return None

    def missing(self, wanted: Callable[[int], bool]) -> str:
        """What the newest moment that is wanted still lacks, for people; everything when there is none."""
        begun = [stamp_ns for stamp_ns in self._moments if wanted(stamp_ns)]
        have = self._moments[max(begun)].keys() if begun else ()
        return ", ".join(sorted(self._parts - set(have)))

    def after_a_rest(self, stamp_ns: int) -> int | None:
        """The complete moment after this one, if the arm only waited for us until this one: then answer the newer."""
        if self._moments[stamp_ns]["executed"].header.frame_id != SILENCE:
            return None
        return self.complete(lambda later: later > stamp_ns)

    def take(self, stamp_ns: int) -> dict[str, Any]:
        """Remove and return a moment; older ones are dropped."""
        moment = self._moments.pop(stamp_ns)
        self.forget_before(stamp_ns)
        return moment

    def forget_before(self, stamp_ns: int) -> None:
        """Drop what is older."""
        self._moments = {stamp: moment for stamp, moment in self._moments.items() if stamp >= stamp_ns}

    def _put(self, stamp_ns: int, part: str, value: Any) -> None:
        self._moments.setdefault(stamp_ns, {})[part] = value
        while len(self._moments) > MOMENTS:
            del self._moments[min(self._moments)]
