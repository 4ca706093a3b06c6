"""A world model answers others' harnesses over HTTP, or our client over gRPC: loaded here, on a port of its own."""

from __future__ import annotations

from pathlib import Path

from cloud_trainer.world_model.capabilities import capabilities_of, require_horizon
from cloud_trainer.world_model.serving.app import create_app
from cloud_trainer.world_model.serving.predictor import PredictLimits, Predictor
from cloud_trainer.world_model.serving.typed import TypedPredictions
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.web.server import PageServer
from gymnast_core.wire.address import check_exposed, plain_host
from gymnast_core.wire.identity import Identity
from gymnast_core.wire.peers import CertifiedAccess, require_server
from gymnast_core.wire.token import read_token
from gymnast_core.wire.world_server import WorldServer

__all__ = ["PredictLimits", "served_typed", "served_world"]


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
        identity: folder with a server's certificate (`gymnast enroll --role server`); None serves without TLS.

    Raises:
        ConfigError: the network would be served without TLS or without a token, or the token file holds none.
        ConfigError: the identity folder holds no server's certificate.
        ConfigError: the model takes no actions, cannot be seeded, or was not audited for so many steps.
        CheckpointError: no world model.
    """
    host = plain_host(host)
    tls, proof = identity is not None, token is not None
    check_exposed(host, tls=tls, proof=proof, remedy="name --identity and --token")
    if identity is not None:
        require_server(Identity.load(identity))
    secret = "" if token is None else read_token(token)
    predictor = _predictor(folder, limits, dream)
    app = create_app(predictor, secret)
    return PageServer(app, host=host, port=port, identity=identity), predictor.version


def served_typed(
    folder: Path, limits: PredictLimits, dream: DreamConfig, *, where: str, access: CertifiedAccess
) -> tuple[WorldServer, str]:
    """Return a running server of a world model for our own client, over mutual TLS, and the model's id.

    Args:
        folder: of the checkpoint.
        limits: of a request.
        dream: how a DiT dreams.
        where: HOST:PORT to listen on; port 0 takes a free one.
        access: with a server's certificate, whose tenant may ask.

    Raises:
        ConfigError: it is no server's certificate, or the address is not to be had.
        ConfigError: the model takes no actions, cannot be seeded, or was not audited for so many steps.
        CheckpointError: no world model.
    """
    require_server(access.identity)  # before the model is read
    predictor = _predictor(folder, limits, dream)
    return WorldServer(TypedPredictions(predictor), where, access), predictor.version


def _predictor(folder: Path, limits: PredictLimits, dream: DreamConfig) -> Predictor:
    able, world = capabilities_of(folder), load_world(folder, dream)
    require_horizon(able, world.version, limits.horizon, "--horizon")
    return Predictor(world, limits, able.arm)
