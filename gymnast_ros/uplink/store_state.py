"""What state.json of a robot's checkpoints holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gymnast_core.errors import CorruptError
from gymnast_core.records.gate_rule import GateNote

REMEMBERED = 100


@dataclass
class Probation:
    """A new checkpoint that must prove itself.

    Attributes:
        checkpoint_id: which.
        previous: where to go back to.
        left: good episodes still needed.
        counted: names of the episodes counted so far; none counts twice.
    """

    checkpoint_id: str
    previous: str
    left: int
    counted: list[str] = field(default_factory=list)


@dataclass
class Mandate:
    """A promotion or rollback that was accepted and is not in force yet.

    Attributes:
        checkpoint_id: what shall run.
        kind: "promotion" or "rollback".
        sequence: of its release.
        reason: of a rollback.
    """

    checkpoint_id: str
    kind: str
    sequence: int
    reason: str = ""


@dataclass
class StoreState:
    """What state.json holds.

    Attributes:
        highest: highest release sequence accepted.
        staged: verified candidates newer than the current one, not yet tried, oldest first, at most 8.
        history: ids that were current, oldest first, at most 100; the last one is current.
        failed: id -> why it was rolled back or turned down, the last 100.
        probation: of the current one, if any.
        mandate: what was promoted or rolled back to and waits for its shadow check.
        obeyed: sequence of the newest promotion or rollback that was acted on, or turned down.
        since_ns: wall clock, when the current one was put in force.
        proven: ids that have passed a probation here, the last 100.
        installed: ids that came with the robot; never pruned.
        gates: id -> how it came past this robot's gate, of those that are here and were released.
    """

    highest: int = 0
    staged: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    probation: Probation | None = None
    mandate: Mandate | None = None
    obeyed: int = 0
    since_ns: int = 0
    proven: list[str] = field(default_factory=list)
    installed: list[str] = field(default_factory=list)
    gates: dict[str, GateNote] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """JSON; what is remembered for ever is bounded."""
        self.history, self.proven = self.history[-REMEMBERED:], self.proven[-REMEMBERED:]
        self.failed = dict(list(self.failed.items())[-REMEMBERED:])
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_bytes(text: str | bytes) -> StoreState:
        """Parse to_bytes(); a file of an older version lacks the newer fields.

        Raises:
            CorruptError: it is something else.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            probation = Probation(**values["probation"]) if values["probation"] else None
            mandate = Mandate(**values["mandate"]) if values.get("mandate") else None
            gates = {name: GateNote(**note) for name, note in values.get("gates", {}).items()}
            state = StoreState(**{**values, "probation": probation, "mandate": mandate, "gates": gates})
            _check_types(state)
            return state
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CorruptError(f"is unreadable: {error}") from error

    def note_gate(self, checkpoint_id: str, note: GateNote, held: Sequence[str]) -> None:
        """Remember how what was taken in came past the gate; what ran here keeps the word it came with."""
        self.gates = {name: one for name, one in self.gates.items() if name in held}
        if note.how != "ran" or checkpoint_id not in self.gates:
            self.gates[checkpoint_id] = note

    def ran(self) -> set[str]:
        """Ids that were in force here and were not turned down afterwards, or came with the robot."""
        return {*self.history, *self.proven} - set(self.failed) | set(self.installed)

    def put_on_probation(self, checkpoint_id: str, previous: str | None, episodes: int) -> None:
        """Ask for good episodes of what is about to run, unless it is trusted here already or the first one."""
        trusted = checkpoint_id in self.proven or checkpoint_id in self.installed
        needed = episodes > 0 and previous is not None and not trusted
        self.probation = Probation(checkpoint_id, previous or "", episodes) if needed else None

    def overtake(self, checkpoint_id: str) -> None:
        """Drop the candidates released up to this one: trying them afterwards would be a step back."""
        after = self.staged.index(checkpoint_id) + 1 if checkpoint_id in self.staged else 0
        self.staged = self.staged[after:]

    def remember(self, checkpoint_id: str, now_ns: int) -> None:
        """Note what is put in force."""
        if self.history[-1:] != [checkpoint_id] or not self.since_ns:
            self.since_ns = now_ns
        self.history = [other for other in self.history if other != checkpoint_id] + [checkpoint_id]

    def ways_back(self, bad: str, held: Sequence[str]) -> list[str]:
        """What may run instead, best first: what ran before it, and at last what came with the robot."""
        names = dict.fromkeys((*reversed(self.history), *reversed(self.installed)))
        return [name for name in names if name != bad and name in held]

    def settle(self, current: str | None, held: Sequence[str]) -> None:
        """After a kill, agree with what is on the robot and in use."""
        self.staged = [other for other in self.staged if other in held and other != current]
        if self.probation and self.probation.checkpoint_id != current:
            self.probation = None
        if self.history and (wanted := self.history[-1]) != current and wanted in held:
            self.history.pop()  # the swap had not happened yet
            if wanted not in self.failed and current not in self.failed:
                self.staged.append(wanted)
            elif current in self.failed:
                self.history.append(wanted)

    def note_failure(self, checkpoint_id: str, reason: str) -> None:
        """Remember why it may not run; the newest reason is the last entry."""
        self.failed.pop(checkpoint_id, None)
        self.failed[checkpoint_id] = reason


def _check_types(state: StoreState) -> None:
    """Raise TypeError where a field holds something else than it should."""
    probation = state.probation or Probation("", "", 0)
    mandate = state.mandate or Mandate("", "", 0)
    lists = (state.staged, state.history, state.proven, state.installed, probation.counted)
    names: list[Any] = [name for each in lists for name in each]
    names += [*state.failed, *state.failed.values(), probation.checkpoint_id, probation.previous]
    names += [getattr(mandate, one.name) for one in fields(mandate) if one.name != "sequence"]
    numbers = (state.highest, state.obeyed, state.since_ns, probation.left, mandate.sequence)
    if not (
        all(isinstance(each, list) for each in lists)
        and all(type(number) is int for number in numbers)
        and isinstance(state.failed, dict)
        and all(isinstance(name, str) for name in names)
    ):
        raise TypeError("a field holds a value of another type")
