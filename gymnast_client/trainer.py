"""One trainer as a program reaches it: everything that may be asked, over one link."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gymnast_client.adaptations import AdaptationsClient
from gymnast_client.checkpoints import CheckpointsClient
from gymnast_client.client import Client
from gymnast_client.episodes import EpisodesClient
from gymnast_client.jobs import JobsClient
from gymnast_client.judging import JudgingClient
from gymnast_client.link import Link
from gymnast_client.log import LogClient
from gymnast_client.loops import LoopsClient
from gymnast_client.pages import PagesClient
from gymnast_client.queue import QueueClient
from gymnast_client.robots import RobotsClient
from gymnast_client.trials import TrialsClient
from gymnast_core.wire.gymnast.v1 import console_pb2, console_pb2_grpc, enroll_pb2, enroll_pb2_grpc
from gymnast_core.wire.identity import Identity


@dataclass(frozen=True)
class PageLogin:
    """How to open the operator's page.

    Attributes:
        address: of the page, as the trainer knows it.
        token: to log in with; shown once.
        valid_for_s: its life.
        trainer_version: of gymnast there; empty from one of 0.1.
    """

    address: str
    token: str
    valid_for_s: int
    trainer_version: str


class Trainer(Client):
    """A trainer.

    Args:
        address: host:port.
        identity: folder from `gymnast enroll`, or one that is read already; None only with insecure.
        insecure: no TLS: only for a link that is secured by other means.

    Attributes:
        jobs: work for it.
        episodes: what robots recorded.
        checkpoints: what it made, and what robots may run.
        adaptations: test-time training for one scene.
        trials: blinded comparisons on an arm.
        loops: training without people.
        queue: what robots shall do, in which order.
        robots: what reports to it.
        pages: calls for a person.
        log: actions with their authors, and real against imagined success.
        judging: how far the judge of real episodes is proven, and what waits for a person's label.

    Raises:
        ConfigError: the address is none, or the folder holds no identity.
    """

    def __init__(self, address: str, identity: Path | str | Identity | None, *, insecure: bool = False) -> None:
        super().__init__(Link(address, identity, insecure=insecure))
        self.jobs = JobsClient(self._link)
        self.episodes = EpisodesClient(self._link)
        self.checkpoints = CheckpointsClient(self._link)
        self.adaptations = AdaptationsClient(self._link)
        self.trials = TrialsClient(self._link)
        self.loops = LoopsClient(self._link)
        self.queue = QueueClient(self._link)
        self.robots = RobotsClient(self._link)
        self.pages = PagesClient(self._link)
        self.log = LogClient(self._link)
        self.judging = JudgingClient(self._link)

    @property
    def identity(self) -> Identity | None:
        """Ours, as last read from the disk."""
        return self._link.identity

    def log_in(self) -> PageLogin:
        """Ask for a token of the operator's page, in our certificate's name.

        Raises:
            ConfigError: this trainer serves no page.
        """
        request = console_pb2.LogInRequest()
        reply = self._link.call(lambda channel: console_pb2_grpc.ConsoleServiceStub(channel).LogIn, request)
        return PageLogin(reply.address, reply.token, reply.valid_for_s, reply.trainer_version)

    def revoked(self) -> frozenset[str]:
        """Return the serials, hexadecimal, of the certificates that were taken back in our tenant."""
        rows = self._rows(
            lambda channel: enroll_pb2_grpc.EnrollServiceStub(channel).ListRevoked,
            lambda after: enroll_pb2.ListRevokedRequest(after=after),
            lambda reply: reply.serials,
            str,
        )
        return frozenset(rows)
