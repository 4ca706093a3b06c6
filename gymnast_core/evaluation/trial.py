"""A paired, randomised, blinded comparison of two checkpoints, with its promotion rule declared before the first run.

Each start state is tried by both checkpoints, in an order drawn from a secret. The secret's hash is written down with
the plan and the secret itself only at the end, so everybody can check afterwards that the order was not chosen on the
way. The labeller sees run ids alone. Everything is an entry of a hash-linked journal: a crash loses nothing, a change
is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from gymnast_core.errors import ConfigError, NotPossibleError
from gymnast_core.evaluation.cards import BlindedTrial, FinishedPair, ResultCard, SetAsidePair
from gymnast_core.evaluation.sequential import Decision, HarmRule, SequentialRule, pair_figures
from gymnast_core.evaluation.statistics import PairCounts
from gymnast_core.evaluation.trial_order import candidate_first, commitment_of
from gymnast_core.evaluation.trial_plan import TrialPlan
from gymnast_core.json_values import JsonObject, JsonValue, json_object
from gymnast_core.records.journal import Journal
from gymnast_core.types import Outcome


class TrialError(NotPossibleError):
    """A step of a trial is not possible now; the message names what is."""


@dataclass(frozen=True)
class Run:
    """What the operator and the labeller see of the next run: nothing that names the checkpoint.

    Attributes:
        run_id: e.g. "trial7-p003-a1-2": pair 3, attempt 1, second of the two.
        pair: 0, 1, 2, ...
        start_seed: start state to reset to.
        instruction: what the arm is asked to do.
    """

    run_id: str
    pair: int
    start_seed: int
    instruction: str


@dataclass
class _Pair:
    """Progress of the pair at hand."""

    attempt: int = 1
    outcomes: tuple[bool, ...] = ()
    episodes: tuple[str, ...] = ()


class Trial:
    """The state of one trial, replayed from its journal. See declare() and load()."""

    def __init__(self, journal: Journal, plan: TrialPlan, secret: bytes) -> None:
        self.plan = plan
        self._journal = journal
        self._secret = secret
        self._pair = _Pair()
        self._done: list[FinishedPair] = []
        self._voided: list[SetAsidePair] = []
        self._decision = Decision.CONTINUE
        for entry in journal.entries[1:]:
            self._apply(entry.kind, entry.data)

    @staticmethod
    def declare(path: Path, plan: TrialPlan, secret: bytes) -> Trial:
        """Write the plan and the commitment to the secret, before any run.

        Args:
            path: of the journal; must not exist. The secret lies beside it, readable by its owner alone.
            plan: see TrialPlan.
            secret: 16 random bytes or more, e.g. secrets.token_bytes(32).

        Raises:
            TrialError: the trial exists; a declared plan is never replaced.
            ConfigError: the secret is too short to keep an order hidden.
        """
        if path.exists():
            raise TrialError(f"{path} exists; a declared trial cannot be declared again, choose another id")
        if len(secret) < 16:
            raise ConfigError(f"the secret has {len(secret)} bytes; use at least 16 random ones")
        journal = Journal(path)
        key = _secret_path(path)
        key.touch(mode=0o600)
        key.write_bytes(secret)
        journal.append("declared", {"plan": plan.to_json(), "commitment": commitment_of(secret)})
        return Trial(journal, plan, secret)

    @staticmethod
    def load(path: Path) -> Trial:
        """Continue a declared trial.

        Raises:
            TrialError: nothing was declared there.
            CorruptError: the journal or the secret was changed.
        """
        if not path.exists() or not _secret_path(path).exists():
            raise TrialError(f"{path} holds no declared trial; declare one first")
        journal = Journal(path)
        if not journal.entries:
            journal.close()
            raise TrialError(f"{path} holds no plan; its declaration was cut short, declare it anew")
        first = journal.entries[0].data
        secret = _secret_path(path).read_bytes()
        if commitment_of(secret) != first["commitment"]:
            journal.close()
            raise TrialError(f"{_secret_path(path)} is not the secret this trial was declared with")
        return Trial(journal, TrialPlan.from_json(json_object(first["plan"])), secret)

    @property
    def decision(self) -> Decision:
        """What the declared rule decides so far."""
        return self._decision

    @property
    def counts(self) -> PairCounts:
        """Finished pairs. Not for the labeller's eyes before the decision."""
        return _counted(self._done)

    @property
    def counts_by_task(self) -> dict[str, PairCounts]:
        """The same for every instruction of the plan."""
        names = self.plan.tasks or (self.plan.instruction,)
        return {name: _counted([pair for pair in self._done if pair["instruction"] == name]) for name in names}

    @property
    def first_episode(self) -> str:
        """Recording of the first run of the pair at hand; empty before it."""
        return self._pair.episodes[0] if self._pair.episodes else ""

    @property
    def attempt(self) -> int:
        """How often the pair at hand was begun: 1, and one more each time it was set aside."""
        return self._pair.attempt

    def next_run(self) -> Run | None:
        """Return the run to do now; the same one until it is recorded or voided; None once decided."""
        if self._decision.final:
            return None
        pair, second = len(self._done), len(self._pair.outcomes)
        run_id = f"{self.plan.trial_id}-p{pair:03d}-a{self._pair.attempt}-{second + 1}"
        return Run(run_id, pair, self.plan.start_seeds[pair], self.plan.instruction_of(pair))

    def checkpoint_of(self, run_id: str) -> str:
        """Return which checkpoint is to do the run: for the machine that runs it, never for the screen.

        Raises:
            TrialError: it is not the run to do now.
        """
        run = self._current(run_id)
        is_first = not self._pair.outcomes
        if candidate_first(self._secret, run.pair, self._pair.attempt) == is_first:
            return self.plan.candidate
        return self.plan.incumbent

    def record(self, run_id: str, outcome: Outcome, *, labelled_by: str, episode_id: str = "") -> Decision:
        """Write down how the run ended and return the decision after it.

        An abstention sets the whole pair aside and repeats it: half a pair is no evidence.

        Raises:
            TrialError: it is not the run to do now (recorded before, or another operator was faster), the trial is
                decided, or the outcome is no label.
        """
        self._current(run_id)
        if outcome is Outcome.UNLABELLED:
            raise TrialError(f"run {run_id} has no label yet; say success, failure or abstain")
        if outcome is Outcome.ABSTAIN:
            self.void(run_id, f"{labelled_by} abstained")
            return self._decision
        data: dict[str, JsonValue] = {
            "run": run_id,
            "success": outcome is Outcome.SUCCESS,
            "by": labelled_by,
            "episode": episode_id,
        }
        self._journal.append("recorded", data)
        self._apply("recorded", data)
        if self._decision.final:
            closing = {"decision": self._decision.value, "secret": self._secret.hex()}
            self._journal.append("decided", closing)
        return self._decision

    def void(self, run_id: str, reason: str) -> None:
        """Set the pair at hand aside (e-stop, failed scene reset) and repeat it with a fresh order.

        Raises:
            TrialError: it is not the run to do now; a labelled run cannot be set aside any more.
        """
        self._current(run_id)
        data = {"run": run_id, "reason": reason}
        self._journal.append("voided", data)
        self._apply("voided", data)

    def blinded_view(self) -> BlindedTrial:
        """Return what may be shown while the trial runs: no checkpoint, no score."""
        run = self.next_run()
        return {
            "trial_id": self.plan.trial_id,
            "instruction": self.plan.instruction,
            "pairs_done": len(self._done),
            "max_pairs": self.plan.rule.max_pairs,
            "set_aside": len(self._voided),
            "commitment": commitment_of(self._secret),
            "decided": self._decision.final,
            "next_run": None if run is None else run.run_id,
        }

    def card(self) -> ResultCard:
        """Return the result card: everything needed to believe or to repeat the result.

        Raises:
            TrialError: the trial is not decided; looking at the score now would break the blinding.
        """
        if not self._decision.final:
            raise TrialError(f"trial {self.plan.trial_id} is not decided after {len(self._done)} pairs; the card waits")
        card = cast(ResultCard, {**self.plan.to_json(), **pair_figures(self.counts)})
        card |= {
            "decision": self._decision.value,
            "looser": self.plan.rule.looser() if isinstance(self.plan.rule, SequentialRule) else [],
            "by_task": {name: pair_figures(counts) for name, counts in self.counts_by_task.items() if counts.n},
            "difference_note": "95 % interval that stays valid under peeking (betting confidence sequence)",
            "pairs": self._done,
            "set_aside": self._voided,
            "commitment": commitment_of(self._secret),
            "secret": self._secret.hex(),
            "journal_head": self._journal.head,
        }
        return card

    def close(self) -> None:
        """Close the journal; safe to call twice."""
        self._journal.close()

    def _current(self, run_id: str) -> Run:
        run = self.next_run()
        if run is None:
            raise TrialError(f"trial {self.plan.trial_id} is decided ({self._decision.value}); nothing can be added")
        if run.run_id != run_id:
            raise TrialError(f"run {run_id} is not the run to do now, {run.run_id} is; reload the page")
        return run

    def _apply(self, kind: str, data: JsonObject) -> None:
        if kind == "voided":
            labelled = len(self._pair.outcomes)
            self._voided.append({"run": str(data["run"]), "reason": str(data["reason"]), "labelled": labelled})
            self._pair = _Pair(attempt=self._pair.attempt + 1)
        elif kind == "recorded":
            self._pair.outcomes += (bool(data["success"]),)
            self._pair.episodes += (str(data["episode"]),)
            if len(self._pair.outcomes) == 2:
                self._finish_pair(str(data["by"]))

    def _finish_pair(self, labelled_by: str) -> None:
        pair = len(self._done)
        flipped = candidate_first(self._secret, pair, self._pair.attempt)
        candidate, incumbent = self._pair.outcomes if flipped else self._pair.outcomes[::-1]
        self._done.append(
            {
                "pair": pair,
                "instruction": self.plan.instruction_of(pair),
                "attempt": self._pair.attempt,
                "start_seed": self.plan.start_seeds[pair],
                "candidate_first": flipped,
                "candidate": candidate,
                "incumbent": incumbent,
                "episodes": list(self._pair.episodes),
                "labelled_by": labelled_by,
            }
        )
        self._pair = _Pair()
        rule = self.plan.rule
        self._decision = rule.decide(self.counts_by_task) if isinstance(rule, HarmRule) else rule.decide(self.counts)


def _counted(pairs: Sequence[FinishedPair]) -> PairCounts:
    found = Counter((bool(pair["candidate"]), bool(pair["incumbent"])) for pair in pairs)
    return PairCounts(found[True, False], found[False, True], found[True, True], found[False, False])


def has_won(card: ResultCard) -> bool:
    """Whether a result card lets its candidate be promoted: it won, and no harm was shown on the other tasks."""
    harmed = card.get("guard", ResultCard()).get("decision") == Decision.ROLL_BACK.value
    return card.get("decision") == Decision.PROMOTE.value and not harmed


def _secret_path(path: Path) -> Path:
    return path.with_suffix(".secret")
