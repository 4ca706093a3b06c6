"""Episodes as trainers see them: rows with files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cloud_trainer.store.protocols import BlobStore, EpisodeRow, MetaStore
from gymnast_core.episodes import read_episode
from gymnast_core.episodes.reader import read_film
from gymnast_core.errors import ContractError, CorruptError
from gymnast_core.types import ByteArray, Episode, Outcome

_PAGE = 1000


class EpisodeCatalogue:
    """Valid episodes of a tenant (of all, when None).

    Args:
        meta: the catalogue.
        blobs: the files.
        tenant: the tenant they belong to.
        settle: waits until what is committed has been validated; returns False when time is over.
    """

    def __init__(
        self,
        meta: MetaStore,
        blobs: BlobStore,
        tenant: str | None = None,
        settle: Callable[[float], bool] = lambda timeout_s: True,
    ) -> None:
        self._meta, self._blobs, self._tenant = meta, blobs, tenant
        self._settle = settle

    def settle(self, timeout_s: float = 60.0) -> bool:
        """Wait until everything committed so far is validated."""
        return self._settle(timeout_s)

    def list(
        self,
        *,
        after: int = 0,
        limit: int = _PAGE,
        states: Sequence[str] = ("valid",),
        robot: str | None = None,
        instruction: str | None = None,
    ) -> list[EpisodeRow]:
        """A page of rows in order of arrival."""
        return self._meta.episodes(
            self._tenant, after=after, limit=limit, states=states, robot=robot, instruction=instruction
        )

    def all(
        self, *, after: int = 0, states: Sequence[str] = ("valid",), robot: str | None = None
    ) -> Iterator[EpisodeRow]:
        """Every row, page by page."""
        while page := self.list(after=after, states=states, robot=robot):
            yield from page
            after = page[-1].sequence

    def find(self, episode_id: str) -> EpisodeRow | None:
        """One valid episode; None when it is not here (yet).

        Raises:
            ContractError: this is the catalogue of every tenant, whose ids may be the same.
        """
        if self._tenant is None:
            raise ContractError(f"whose {episode_id}? ask the catalogue of one tenant")
        return self.of(self._tenant, episode_id)

    def of(self, tenant: str, episode_id: str) -> EpisodeRow | None:
        """One valid episode of a tenant, also where this is the catalogue of all; None when it is not here (yet)."""
        row = self._meta.episode(tenant, episode_id)
        return row if row is not None and row.state == "valid" else None

    def again(self, row: EpisodeRow) -> EpisodeRow:
        """The same episode as it is known now."""
        return self._meta.episode(row.tenant, row.episode_id) or row

    def path(self, row: EpisodeRow) -> Path:
        """The file, to be read only."""
        return self._blobs.local_path(row.digest)

    def recording(self, row: EpisodeRow) -> Path:
        """The file, where it was found sound: nothing else is handed to anybody's program.

        Raises:
            CorruptError: it never was.
        """
        self._require_sound(row)
        return self.path(row)

    def read(
        self, row: EpisodeRow, cameras: Sequence[str] | None = None, image_size: tuple[int, int] | None = None
    ) -> Episode:
        """The episode, with the catalogue's label (an operator may have corrected the file's) and its robot.

        Raises:
            CorruptError: its file was never found sound, and is not opened here; or it is broken.
        """
        self._require_sound(row)
        episode = read_episode(self.path(row), cameras, image_size)
        metadata = {**episode.metadata, "robot": row.robot}
        return replace(episode, outcome=Outcome(row.outcome), labelled_by=row.labelled_by, metadata=metadata)

    def film(self, row: EpisodeRow, most: int, width: int) -> ByteArray:
        """At most so many frames of the first camera, thinned to a width side by side: (F, H, W, 3) uint8 RGB.

        Raises:
            CorruptError: as read().
        """
        self._require_sound(row)
        return read_film(self.path(row), most, width)

    @staticmethod
    def _require_sound(row: EpisodeRow) -> None:
        """A withdrawn episode was looked into before, and has steps; one that was set aside or waits has none."""
        if row.state != "valid" and not row.steps:
            why = row.reason or "it has not been looked into yet"
            raise CorruptError(f"the file of {row.episode_id} is not opened ({row.state}): {why}")
