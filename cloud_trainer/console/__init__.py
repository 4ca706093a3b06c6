"""The operator's console of a trainer: open it on the trainer's folder, beside the running service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from cloud_trainer.console.app import create_app
from cloud_trainer.console.auth import Gate, User
from cloud_trainer.console.desk import Desk
from cloud_trainer.console.server import ConsoleServer
from cloud_trainer.jobs.scene_adaptation import AdaptationEngine, Adaptations
from cloud_trainer.service.enroll import release_key
from cloud_trainer.service.publish import Publisher
from cloud_trainer.store import open_blobs
from cloud_trainer.store.database import Database
from cloud_trainer.store.sql_jobs import SqlJobStore
from cloud_trainer.store.sql_meta import SqlMetaStore

__all__ = ["Console", "Gate", "User"]

RELEASE_VALID_S = 30 * 24 * 3600


class Console:
    """The pages of one trainer; may run in the service's process or in one of its own.

    Args:
        folder: of the trainer, as given to ServiceConfig.
        engine: adapts robots to scenes; None shows old adaptations only.
        host: address to listen on.
        port: 0 takes a free one.
        identity: folder with a server certificate (folder/server of the service); None is plain HTTP on this machine.
        database_url: as given to ServiceConfig.
        blob_url: as given to ServiceConfig.
        loops: folders of unattended loops to show.
    """

    def __init__(
        self,
        folder: Path,
        *,
        engine: AdaptationEngine | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        identity: Path | None = None,
        database_url: str | None = None,
        blob_url: str | None = None,
        loops: Sequence[Path] = (),
    ) -> None:
        self._database = Database(database_url or f"sqlite:///{folder / 'store.db'}")
        meta, blobs = SqlMetaStore(self._database), open_blobs(blob_url, folder, {})
        key = release_key(folder / "ca")
        self.desk = Desk(
            folder,
            meta=meta,
            jobs=SqlJobStore(self._database),
            blobs=blobs,
            releases=Publisher(blobs, meta, key, folder / "staging", valid_s=RELEASE_VALID_S),
            adaptations=Adaptations(folder / "console" / "adaptations", engine),
            loops=loops,
        )
        self.gate = Gate(folder / "console")
        self._server = ConsoleServer(create_app(self.desk, self.gate), host=host, port=port, identity=identity)
        self._meta = meta

    def start(self) -> str:
        """Listen; returns the address of the page.

        Raises:
            GymnastError: the port is taken.
        """
        return self._server.start()

    def stop(self) -> None:
        """Stop listening, let adaptations rest between two steps, close what is open."""
        self._server.stop()
        self.desk.close()
        self._meta.close()

    def __enter__(self) -> Console:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()
