"""Read a dataset once before anything learns from it: what cannot be read, and whether its actions are in step.

A broken picture that is found at step 12,000 costs a night, and again at every restart; actions that are a step late
cost a model. Each batch of a dataset (a dated folder of BridgeData, a robot's episodes) is measured by itself: a mix
hides a late one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cloud_trainer.world_model.data.lag import ConventionError, LagReport, LagTally
from cloud_trainer.world_model.data.source import EpisodeSource, SchemaError, SelectedSource
from cloud_trainer.world_model.data.units import UnitsError
from gymnast_core.errors import CorruptError, GymnastError
from gymnast_core.types import Episode

_MEASURED_PER_BATCH = 64
_HOPELESS = 8
"""So many unreadable episodes in a row from the first on are the dataset's fault: no need to read the rest."""


@dataclass(frozen=True)
class Checked:
    """What one pass over a dataset found.

    Attributes:
        source: the dataset.
        readable: indices of the episodes that can be read.
        broken: index and complaint of the others.
        lags: by batch; batches without motion to measure are left out.
        cameras: what there is to choose from; the first episode's.
        camera: the one read.
    """

    source: EpisodeSource
    readable: tuple[int, ...]
    broken: tuple[tuple[int, str], ...]
    lags: dict[str, LagReport] = field(default_factory=dict)
    cameras: tuple[str, ...] = ()
    camera: str = ""

    def kept(self, *, skip_broken: bool) -> EpisodeSource:
        """Return the dataset to learn from.

        Raises:
            CorruptError: something is broken and not to be skipped; names every broken episode.
        """
        if not self.broken:
            return self.source
        if not skip_broken:
            raise CorruptError(
                f"dataset {self.source.info.name}: {self.summary()}\n{self.listing()}\nMend or remove them, or leave "
                'them out with --skip-broken (in run.json "skip_broken": true)'
            )
        return SelectedSource(self.source, self.readable)

    def summary(self) -> str:
        """One line: how many can be read."""
        total = len(self.readable) + len(self.broken)
        return f"{len(self.broken)} of {total} episodes cannot be read"

    def listing(self) -> str:
        """A line for each broken episode."""
        return "\n".join(f"  episode {index}: {complaint}" for index, complaint in self.broken)

    def late(self, tolerance: int = 0) -> dict[str, LagReport]:
        """Batches whose actions are off in time by more than the tolerance, not by smear or chance."""
        return {batch: found for batch, found in self.lags.items() if found.systematic and abs(found.best) > tolerance}

    def require_in_step(self, tolerance: int = 0) -> None:
        """Refuse a dataset with actions that are off in time.

        Raises:
            ConventionError: names dataset, batches and the lag found.
        """
        late = self.late(tolerance)
        if not late:
            return
        lines = [f"  {batch or 'all'}: {found.best:+d} ({found.episodes} episodes)" for batch, found in late.items()]
        raise ConventionError(
            f"dataset {self.source.info.name}: the motion from frame t to t+1 is not that of action t; lag left over:\n"
            + "\n".join(lines)
            + '\nDeclare "lag" for these in run.json (as a dataset of their own), or accept it with "lag_tolerance"'
        )


def check(
    source: EpisodeSource, *, measure: bool = True, on_read: Callable[[int, int], None] = lambda _done, _of: None
) -> Checked:
    """Read every episode once, holding one at a time.

    Args:
        source: the dataset.
        measure: also the lag, of up to 64 episodes a batch; not of text-only data.
        on_read: called with how many episodes were read, of how many.

    Raises:
        GymnastError: none of the episodes can be read: the first one's complaint.
    """
    readable: list[int] = []
    broken: list[tuple[int, GymnastError]] = []
    tallies: dict[str, LagTally] = {}
    counts: dict[str, int] = {}
    first: Episode | None = None
    measure = measure and source.info.actions.has_numbers
    for index in range(len(source)):
        try:
            episode = source.episode(index)
        except GymnastError as error:
            broken.append((index, error))
            _give_up(broken, readable)
            continue
        first = first or episode
        readable.append(index)
        batch = str(episode.metadata.get("batch") or episode.metadata.get("robot") or "")
        counts[batch] = counts.get(batch, 0) + 1
        if measure and counts[batch] <= _MEASURED_PER_BATCH:
            tallies.setdefault(batch, LagTally()).add(episode)
        on_read(index + 1, len(source))
    if broken and not readable:
        raise broken[0][1]
    complaints = tuple((index, str(error)) for index, error in broken)
    return Checked(source, tuple(readable), complaints, _reports(tallies), *_cameras(first))


def _cameras(episode: Episode | None) -> tuple[tuple[str, ...], str]:
    """The cameras there are to choose from, and the one read."""
    if episode is None:
        return (), ""
    return tuple(episode.metadata.get("cameras", ())), next(iter(episode.images), "")


def _give_up(broken: Sequence[tuple[int, GymnastError]], readable: Sequence[int]) -> None:
    """Raise when what is wrong is the whole dataset's declaration, or its first episodes are all unreadable."""
    schema = isinstance(broken[0][1], SchemaError) and not isinstance(broken[0][1], UnitsError)
    if not readable and (len(broken) >= _HOPELESS or schema):
        raise broken[0][1]


def _reports(tallies: dict[str, LagTally]) -> dict[str, LagReport]:
    found = {}
    for batch, tally in tallies.items():
        try:
            found[batch] = tally.report()
        except ConventionError:
            continue
    return found
