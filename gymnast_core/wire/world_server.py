"""Serves a world model to everybody of one tenant, over mutual TLS."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import grpc

from gymnast_core.wire.channel import KEEPALIVE_TIME_MS
from gymnast_core.wire.gymnast.v1 import worlds_pb2, worlds_pb2_grpc
from gymnast_core.wire.peers import CertifiedAccess, answered, listen_securely

DOES = "ask this world model"
SPARE = 3
"""Threads beside those that compute: they say that all are busy, and describe."""


class Predictions(Protocol):
    """What answers."""

    def describe(self) -> worlds_pb2.WorldDescription:
        """Return what the model takes, and how much of it."""
        ...

    def predict(
        self, request: worlds_pb2.WorldPredictRequest, waiting: Callable[[], bool]
    ) -> worlds_pb2.WorldPredictReply:
        """Return a frame for every action; raises a GymnastError where it cannot."""
        ...


class _Servicer(worlds_pb2_grpc.WorldModelServiceServicer):
    def __init__(self, predictions: Predictions, access: CertifiedAccess) -> None:
        self._predictions, self._access = predictions, access

    def Describe(
        self, request: worlds_pb2.DescribeWorldRequest, context: grpc.ServicerContext
    ) -> worlds_pb2.WorldDescription:
        def act() -> worlds_pb2.WorldDescription:
            self._access.require_role(context, DOES)
            return self._predictions.describe()

        return answered(context, act)

    def Predict(
        self, request: worlds_pb2.WorldPredictRequest, context: grpc.ServicerContext
    ) -> worlds_pb2.WorldPredictReply:
        def act() -> worlds_pb2.WorldPredictReply:
            self._access.require_role(context, DOES)
            return self._predictions.predict(request, context.is_active)

        return answered(context, act)


class WorldServer:
    """A running server.

    Args:
        predictions: what answers.
        where: HOST:PORT; port 0 takes a free one.
        access: who is let in; its certificate names the host.

    Attributes:
        address: where callers find it.

    Raises:
        ConfigError: the address is none, or not to be had.
    """

    def __init__(self, predictions: Predictions, where: str, access: CertifiedAccess) -> None:
        limits = predictions.describe()
        options: Any = (
            ("grpc.max_receive_message_length", limits.request_bytes), ("grpc.so_reuseport", 0),
            ("grpc.max_metadata_size", 16 * 1024), ("grpc.max_concurrent_streams", 40),
            ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 2),
        )  # fmt: skip
        pool = ThreadPoolExecutor(limits.concurrency + SPARE)
        self._server = grpc.server(pool, options=options, maximum_concurrent_rpcs=4 * (limits.concurrency + SPARE))
        worlds_pb2_grpc.add_WorldModelServiceServicer_to_server(_Servicer(predictions, access), self._server)
        self.address = listen_securely(self._server, where, access.identity)
        self._access = access
        self._server.start()
        access.revocations.start()

    def stop(self) -> None:
        """Stop listening; what is computed is given up."""
        self._server.stop(1.0).wait()
        self._access.revocations.stop()
