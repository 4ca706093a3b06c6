"""A world model answers others' harnesses over HTTP: loaded here, served on a port of its own."""

from __future__ import annotations

from pathlib import Path

from cloud_trainer.world_model.capabilities import capabilities_of, require_horizon
from cloud_trainer.world_model.serving.app import create_app
from cloud_trainer.world_model.serving.predictor import PredictLimits, Predictor
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.web.server import PageServer
from gymnast_core.wire.address import check_exposed, plain_host
from gymnast_core.wire.identity import Identity
from gymnast_core.wire.token import read_token

__all__ = ["PredictLimits", "served_world"]


def served_world(
    folder: Path,
    limits: PredictLimits,
    dream: DreamConfig,
    *,
    host: str,
    port: int,
    token: Path | None,
    identity: Path | None,
) -> tuple[PageServer, str]:
    """Return a server of a world model, not started yet, and the model's id.

    Args:
        folder: of the checkpoint.
        limits: of a request.
        dream: how a DiT dreams.
        host: to listen on; any but this machine's own needs identity and token.
        port: 0 takes a free one.
        token: file with what callers must show; None asks for nothing.
        identity: folder with a server's certificate, FOLDER/server of a trainer; None serves without TLS.

    Raises:
        ConfigError: the network would be served without TLS or without a token, or the token file holds none.
        ConfigError: the identity folder holds no server's certificate.
        ConfigError: the model takes no actions, cannot be seeded, or was not audited for so many steps.
        CheckpointError: no world model.
    """
    host = plain_host(host)
    tls, proof = identity is not None, token is not None
    check_exposed(host, tls=tls, proof=proof, remedy="name --identity and --token")
    if identity is not None and (holder := Identity.load(identity).peer).role != "server":
        raise ConfigError(
            f"{identity} is the certificate of {holder.role} {holder.name}, which no caller takes for a server's; use "
            "FOLDER/server of a trainer, whose `gymnast serve --name` says under which names it is reached"
        )
    secret = "" if token is None else read_token(token)
    world = load_world(folder, dream)
    require_horizon(capabilities_of(folder), world.version, limits.horizon, "--horizon")
    app = create_app(Predictor(world, limits, WIDOWX_250S), secret)
    return PageServer(app, host=host, port=port, identity=identity), world.version
