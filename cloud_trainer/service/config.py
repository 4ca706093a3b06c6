"""Settings of the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from gymnast_core.errors import ConfigError
from gymnast_core.settings import Positive, Settings
from gymnast_core.wire.address import plain_host

_MIB = 1 << 20
AtLeastOne = Annotated[int, Field(ge=1)]
Host = Annotated[str, AfterValidator(plain_host)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Limits(Settings):
    """Sizes and counts a stranger or a bug cannot exceed."""

    where: ClassVar[str] = "limits"

    episode_bytes: AtLeastOne = 1024 * _MIB
    """Largest episode."""
    checkpoint_bytes: AtLeastOne = 64 * 1024 * _MIB
    """Largest weights file."""
    window_bytes: AtLeastOne = 32 * _MIB
    """Chunk bytes one stream may have sent and not yet seen written; bounds memory per stream."""
    tenant_bytes: AtLeastOne = 1 << 40
    """Quota of stored episodes per tenant."""
    tenant_episodes: AtLeastOne = 10_000_000
    """Quota of episodes per tenant."""
    streams_per_peer: AtLeastOne = 8
    """Long calls of one method that one certificate may have open."""
    streams_per_tenant: AtLeastOne = 768
    """Long calls a tenant may have open."""
    streams: AtLeastOne = 1536
    """Long calls that may be open; each needs a thread."""
    calls_per_peer: AtLeastOne = 16
    """Short calls one certificate may have under way; a quarter of the threads at most."""
    first_message_s: Positive = 10.0
    """A call whose message does not come for so long is ended."""
    connections: AtLeastOne = 8192
    """Open at once, if the operating system lets this process have so many files."""
    handshake_s: Positive = 5.0
    """A connection that is not set up by then is closed."""
    idle_connection_s: Positive = 300.0
    """A connection without any call is closed after so long."""
    episodes_per_stream: AtLeastOne = 64
    """Episodes open at once on one stream."""
    idle_stream_s: Positive = 60.0
    """An upload stream that sends nothing for so long is closed."""
    min_free_bytes: AtLeastOne = 256 * _MIB
    """Episodes are refused (retry) when less than this is left on the disk."""
    json_bytes: AtLeastOne = 256 * 1024
    """Largest JSON document in a message."""
    robot_jobs_per_hour: AtLeastOne = 60
    """Jobs and adaptations that one robot may ask for within an hour."""
    robot_pages_per_hour: AtLeastOne = 60
    """Calls for a person of one kind that one robot may raise within an hour; further ones wait on the robot."""
    manifest_bytes: AtLeastOne = 64 * _MIB
    """Largest manifest of a checkpoint; its lineage may name every episode."""
    waiting_jobs: AtLeastOne = 1000
    """Jobs a tenant may have waiting."""
    queue_entries: AtLeastOne = 500
    """Entries that a tenant may have open in the queues of its robots."""
    frame_bytes: AtLeastOne = 256 * 1024
    """Largest camera image in a robot's report."""


class ServiceConfig(Settings):
    """Where the service keeps things and how it listens."""

    where: ClassVar[str] = "service"

    folder: Path
    """State: ca/, server/, store.db, blobs/, staging/; created when missing."""
    host: Host = "127.0.0.1"
    """Address to listen on: 127.0.0.1 is for this machine only, 0.0.0.0 and :: listen on all of its addresses."""
    port: Port = 0
    """0 takes a free one."""
    port_file: Path | None = None
    """Gets "host:port" once the service listens."""
    names: tuple[str, ...] = ()
    """Name or address robots and people reach it by, for its certificate, beside this machine's own host name and
    addresses; there may be several."""
    insecure: bool = False
    """No TLS and no identities: every caller is admin. For a closed test bench only."""
    database_url: str | None = None
    """postgresql://user@host/database, with a password @FILE of such a line; without, SQLite in folder."""
    blob_url: str | None = None
    """s3://bucket/prefix; without, a folder in folder."""
    blob_options: dict[str, str] = Field(default_factory=dict)
    """Of the bucket: endpoint, region, access_key_id, secret_access_key; the environment's AWS_... otherwise; there
    may be several."""
    workers: AtLeastOne = 1
    """Jobs of any kind run at once."""
    interactive_workers: Annotated[int, Field(ge=0)] = 1
    """Jobs run at once beside them, of kinds that somebody waits for (gymnast_core.job): an adaptation does not wait
    behind a training of a day."""
    call_threads: AtLeastOne = 64
    """Short calls served at once; long ones have threads of their own (limit streams)."""
    release_valid_s: AtLeastOne = 30 * 24 * 3600
    """How long a release may be installed after publishing, in seconds."""
    pages: Path | None = None
    """TOML or JSON file of who is called when a person is needed, e.g. config/pages.toml; without, calls
    are shown on the page and sent to nobody."""
    metrics_port: Port | None = None
    """Of Prometheus metrics on 127.0.0.1; 0 takes a free one; without, none are served."""
    limits: Limits = Field(default_factory=Limits)
    """What a stranger or a bug cannot exceed."""

    @model_validator(mode="after")
    def _options_have_a_bucket(self) -> ServiceConfig:
        if self.blob_options and self.blob_url is None:
            raise ConfigError(
                f"blob_options {sorted(self.blob_options)} are of a bucket; give blob_url s3://bucket/prefix"
            )
        return self
