"""The catalogue of episodes: listed, labelled, withdrawn, sent and fetched."""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gymnast_client.client import Client
from gymnast_client.download import BlobDownload
from gymnast_client.reading import read_object
from gymnast_client.upload import FileUpload
from gymnast_client.waits import Waits
from gymnast_core.errors import TransientBridgeError
from gymnast_core.evaluation.recorded_attempts import MOST_LOOKED_AT, RetriedPolicy, retried
from gymnast_core.json_values import JsonObject
from gymnast_core.types import Outcome
from gymnast_core.wire.errors import NotFoundError
from gymnast_core.wire.gymnast.v1 import trajectories_pb2, trajectories_pb2_grpc

_PAGE = 500


@dataclass(frozen=True)
class EpisodeView:
    """An episode as the trainer's catalogue has it; digest and policy_version are empty while its trial is blinded."""

    sequence: int
    episode_id: str
    robot: str
    digest: str
    size: int
    state: str
    reason: str
    instruction: str
    outcome: str
    labelled_by: str
    steps: int
    policy_version: str
    metadata: JsonObject
    received_ns: int


@dataclass(frozen=True)
class MadeFrom:
    """Something an episode went into: a label, data set, checkpoint, ..."""

    id: str
    kind: str


class EpisodesClient(Client):
    """The catalogue of episodes."""

    def list(self, *, after: int = 0, limit: int = 500, state: str = "", robot: str = "") -> builtins.list[EpisodeView]:
        """A page in order of arrival, behind a sequence number."""
        request = trajectories_pb2.ListEpisodesRequest(after_sequence=after, limit=limit, state=state, robot=robot)
        return self._listed(request)

    def newest(
        self, limit: int = 60, *, before: int = 0, outcome: str = "", text: str = "", state: str = "", robot: str = ""
    ) -> Iterator[EpisodeView]:
        """Episodes newest first, filtered by the trainer.

        Args:
            limit: at most so many.
            before: sequence of one that was seen already; 0 begins with the newest.
            outcome: only with this label.
            text: only with this in their instruction or id.
            state: committed, valid or quarantined; empty is all.
            robot: only its.
        """
        while limit > 0:
            page = self._listed(
                trajectories_pb2.ListEpisodesRequest(
                    newest_first=True, before_sequence=before, limit=min(limit, _PAGE), outcome=outcome, text=text,
                    state=state, robot=robot,
                )
            )  # fmt: skip
            if not page:
                return
            yield from page
            before, limit = page[-1].sequence, limit - len(page)

    def retried(self) -> Sequence[RetriedPolicy]:
        """Return what trying again after judged failures came to, among the newest episodes: apart from any trial."""
        return retried(self.newest(MOST_LOOKED_AT, state="valid"))

    def _listed(self, request: trajectories_pb2.ListEpisodesRequest) -> builtins.list[EpisodeView]:
        reply = self._link.call(
            lambda channel: trajectories_pb2_grpc.TrajectoryServiceStub(channel).ListEpisodes, request
        )
        return [_episode(episode) for episode in reply.episodes]

    def get(self, episode_id: str) -> EpisodeView:
        """One episode.

        Raises:
            NotFoundError: no such episode.
        """
        request = trajectories_pb2.ListEpisodesRequest(episode_id=episode_id)
        reply = self._link.call(
            lambda channel: trajectories_pb2_grpc.TrajectoryServiceStub(channel).ListEpisodes, request
        )
        if not reply.episodes:
            raise NotFoundError(f"the trainer has no episode {episode_id!r}; see `gymnast episodes list`")
        return _episode(reply.episodes[0])

    def label(self, episode_id: str, outcome: Outcome) -> EpisodeView:
        """Set or correct a label; its author is the name in our certificate."""
        request = trajectories_pb2.LabelEpisodeRequest(episode_id=episode_id, outcome=outcome.value)
        return _episode(
            self._link.call(lambda channel: trajectories_pb2_grpc.TrajectoryServiceStub(channel).LabelEpisode, request)
        )

    def retract(self, episode_id: str, reason: str) -> Sequence[MadeFrom]:
        """Withdraw one, by the name in our certificate. Returns everything that was made from it, oldest first.

        Raises:
            NotFoundError: no such episode.
        """
        request = trajectories_pb2.RetractEpisodeRequest(episode_id=episode_id, reason=reason)
        reply = self._link.call(
            lambda channel: trajectories_pb2_grpc.TrajectoryServiceStub(channel).RetractEpisode, request
        )
        return [MadeFrom(node.id, node.kind) for node in reply.touched]

    def upload(self, path: Path) -> bool:
        """Send an episode file, e.g. one that a script has made; robots and administrators may.

        Returns:
            Whether the trainer had it already.

        Raises:
            CorruptError: it is no episode file.
            GymnastError: the trainer refused it; of the class it was refused with.
        """
        return FileUpload(self._link, path).run()

    def checked(self, episode_ids: Sequence[str], *, timeout_s: float) -> builtins.list[EpisodeView]:
        """Return episodes that were sent, once the trainer has looked into them all, or after a time.

        Args:
            episode_ids: which.
            timeout_s: those still in the state "committed" then are returned so.
        """
        waits, deadline_s = Waits(), time.monotonic() + timeout_s
        while True:
            rows = [self.get(episode_id) for episode_id in episode_ids]
            if all(row.state != "committed" for row in rows) or time.monotonic() > deadline_s:
                return rows
            time.sleep(waits.next_s())

    def fetch(self, episode: EpisodeView, into: Path) -> Path:
        """Download the file of an episode, verified by its digest.

        Raises:
            TransientBridgeError: it is a run of a trial that is not decided, and the file names its policy.
        """
        if not episode.digest:
            raise TransientBridgeError(
                f"{episode.episode_id} is a run of a blinded trial, and its file names the policy; ask again when the "
                "trial is decided: gymnast operate evaluations"
            )
        return BlobDownload(self._link, episode.digest, episode.size, into).run()


def _episode(message: trajectories_pb2.Episode) -> EpisodeView:
    names = [name for name in EpisodeView.__dataclass_fields__ if name != "metadata"]
    fields = {name: getattr(message, name) for name in names}
    return EpisodeView(**fields, metadata=read_object(message.metadata_json, f"the metadata of {message.episode_id}"))
