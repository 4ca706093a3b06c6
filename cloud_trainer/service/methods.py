"""What the protos declare, as gRPC takes it: services, their methods with their codecs, the options of a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cloud_trainer.service.admission import connection_budget
from cloud_trainer.service.config import Limits
from cloud_trainer.service.guard import KINDS, Guard
from gymnast_core.errors import CorruptError
from gymnast_core.wire.channel import KEEPALIVE_TIME_MS, KEEPALIVE_TIMEOUT_MS, LOOKAHEAD_BYTES
from gymnast_core.wire.codec import MAX_MESSAGE_BYTES, Chunk, decode_upload, encode_blob
from gymnast_core.wire.gymnast.v1 import (
    adaptations_pb2,
    checkpoints_pb2,
    console_pb2,
    enroll_pb2,
    jobs_pb2,
    judge_pb2,
    log_pb2,
    loops_pb2,
    pages_pb2,
    policy_pb2,
    queue_pb2,
    robots_pb2,
    trajectories_pb2,
    trials_pb2,
    weights_pb2,
)

SERVICES = {
    "TrajectoryService": trajectories_pb2,
    "WeightsService": weights_pb2,
    "CheckpointService": checkpoints_pb2,
    "AdaptationService": adaptations_pb2,
    "TrialService": trials_pb2,
    "LoopService": loops_pb2,
    "PageService": pages_pb2,
    "QueueService": queue_pb2,
    "LogService": log_pb2,
    "JobService": jobs_pb2,
    "PolicyService": policy_pb2,
    "JudgeService": judge_pb2,
    "RobotService": robots_pb2,
    "ConsoleService": console_pb2,
    "EnrollService": enroll_pb2,
}
OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),  # where the window starts; its growth costs round trips
    ("grpc.max_concurrent_streams", 40),  # of one connection: eight of each method that lasts, and some short ones
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # of gRPC's own probes, which keepalive waits for
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 2),
    ("grpc.http2.max_ping_strikes", 4),
    ("grpc.so_reuseport", 0),
)


def _lenient_upload(data: bytes) -> Chunk | trajectories_pb2.UploadRequest | CorruptError:
    """A message nobody understands becomes an error with a name, not a broken stream."""
    try:
        return decode_upload(data)
    except CorruptError as error:
        return error


_DECODERS: dict[str, Callable[[bytes], Any]] = {"/gymnast.v1.TrajectoryService/Upload": _lenient_upload}
_ENCODERS: dict[str, Callable[[Any], bytes]] = {"/gymnast.v1.WeightsService/Fetch": encode_blob}


def _encode(message: Message) -> bytes:
    return bytes(message.SerializeToString())


def method_handlers(service: str, servicer: object) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Return a handler for every method a service's .proto declares: the servicer's method of the same name."""
    descriptor = SERVICES[service].DESCRIPTOR.services_by_name[service]
    handlers = {}
    for method in descriptor.methods:
        path = f"/{descriptor.full_name}/{method.name}"
        kind = KINDS[(method.client_streaming, method.server_streaming)]
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        handlers[method.name] = make(
            getattr(servicer, method.name),
            request_deserializer=_DECODERS.get(path, GetMessageClass(method.input_type).FromString),
            response_serializer=_ENCODERS.get(path, _encode),
        )
    return handlers


def grpc_server(
    guard: Guard, limits: Limits, servicers: Mapping[str, object]
) -> tuple[grpc.Server, health.HealthServicer]:
    """Return a server that listens nowhere yet, with every method behind the guard, and what answers health checks.

    Args:
        guard: admits calls.
        limits: of connections.
        servicers: name of a service -> its servicer.
    """
    options = (
        *OPTIONS,
        ("grpc.max_allowed_incoming_connections", connection_budget(limits)),
        ("grpc.server_handshake_timeout_ms", round(limits.handshake_s * 1000)),
        ("grpc.http2.settings_timeout", round(limits.handshake_s * 1000)),
        ("grpc.max_connection_idle_ms", round(limits.idle_connection_s * 1000)),
    )
    server = grpc.server(guard.pool, options=options, interceptors=[guard])
    names = []
    for short, servicer in servicers.items():
        name = f"gymnast.v1.{short}"
        names.append(name)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, method_handlers(short, servicer)),))
    answers = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(answers, server)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server, answers
