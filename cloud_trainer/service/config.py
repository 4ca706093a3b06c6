"""Settings of the service."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gymnast_core.errors import ConfigError
from gymnast_core.wire.address import plain_host

_MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Sizes and counts a stranger or a bug cannot exceed.

    Attributes:
        episode_bytes: largest episode.
        checkpoint_bytes: largest weights file.
        window_bytes: chunk bytes one stream may have sent and not yet seen written; bounds memory per stream.
        tenant_bytes: quota of stored episodes per tenant.
        tenant_episodes: quota of episodes per tenant.
        streams_per_peer: long calls of one method that one certificate may have open.
        streams_per_tenant: long calls a tenant may have open.
        streams: long calls that may be open; each needs a thread.
        calls_per_peer: short calls one certificate may have under way; a quarter of the threads at most.
        first_message_s: a call whose message does not come for so long is ended.
        connections: open at once, if the operating system lets this process have so many files.
        handshake_s: a connection that is not set up by then is closed.
        idle_connection_s: a connection without any call is closed after so long.
        episodes_per_stream: episodes open at once on one stream.
        idle_stream_s: an upload stream that sends nothing for so long is closed.
        min_free_bytes: episodes are refused (retry) when less than this is left on the disk.
        json_bytes: largest JSON document in a message.
        manifest_bytes: largest manifest of a checkpoint; its lineage may name every episode.
        waiting_jobs: jobs a tenant may have waiting.
        frame_bytes: largest camera image in a robot's report.
    """

    episode_bytes: int = 1024 * _MIB
    checkpoint_bytes: int = 64 * 1024 * _MIB
    window_bytes: int = 32 * _MIB
    tenant_bytes: int = 1 << 40
    tenant_episodes: int = 10_000_000
    streams_per_peer: int = 8
    streams_per_tenant: int = 768
    streams: int = 1536
    calls_per_peer: int = 16
    first_message_s: float = 10.0
    connections: int = 8192
    handshake_s: float = 5.0
    idle_connection_s: float = 300.0
    episodes_per_stream: int = 64
    idle_stream_s: float = 60.0
    min_free_bytes: int = 256 * _MIB
    json_bytes: int = 256 * 1024
    manifest_bytes: int = 64 * _MIB
    waiting_jobs: int = 1000
    frame_bytes: int = 256 * 1024

    def __post_init__(self) -> None:
        """Refuse limits that would refuse everything."""
        for name, value in vars(self).items():
            if value <= 0:
                raise ConfigError(f"limit {name} must be positive, got {value}")


@dataclass(frozen=True)
class ServiceConfig:
    """Where the service keeps things and how it listens.

    Attributes:
        folder: state: ca/, server/, store.db, blobs/, staging/; created when missing.
        host: address to listen on: 127.0.0.1 is for this machine only, 0.0.0.0 and :: listen on all of its addresses.
        port: 0 takes a free one.
        port_file: gets "host:port" once the service listens.
        names: name or address robots and people reach it by, for its certificate, beside this machine's own host name
            and addresses; there may be several.
        insecure: no TLS and no identities: every caller is admin. For a closed test bench only.
        database_url: postgresql://user@host/database, with a password @FILE of such a line; without, SQLite in folder.
        blob_url: s3://bucket/prefix; without, a folder in folder.
        blob_options: of the bucket: endpoint, region, access_key_id, secret_access_key; the environment's AWS_...
            otherwise; there may be several.
        workers: jobs of any kind run at once.
        interactive_workers: jobs run at once beside them, of kinds that somebody waits for (gymnast_core.job): an
            adaptation does not wait behind a training of a day.
        call_threads: short calls served at once; long ones have threads of their own (limit streams).
        release_valid_s: how long a release may be installed after publishing, in seconds.
        metrics_port: of Prometheus metrics on 127.0.0.1; 0 takes a free one; without, none are served.
        limits: see Limits.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    port_file: Path | None = None
    names: tuple[str, ...] = ()
    insecure: bool = False
    database_url: str | None = None
    blob_url: str | None = None
    blob_options: dict[str, str] = field(default_factory=dict)
    workers: int = 1
    interactive_workers: int = 1
    call_threads: int = 64
    release_valid_s: int = 30 * 24 * 3600
    metrics_port: int | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Refuse hosts that are none, ports and counts out of range."""
        object.__setattr__(self, "host", plain_host(self.host))
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be 0..65535, got {self.port}")
        for name in ("workers", "call_threads", "release_valid_s"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65535:
            raise ConfigError(f"metrics_port must be 0..65535, got {self.metrics_port}")
        if self.blob_options and self.blob_url is None:
            raise ConfigError(
                f"blob_options {sorted(self.blob_options)} are of a bucket; give blob_url s3://bucket/prefix"
            )
        if self.interactive_workers < 0:
            raise ConfigError(f"interactive_workers must be at least 0, got {self.interactive_workers}")
