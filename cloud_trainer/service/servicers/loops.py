"""LoopService: unattended loops."""

from __future__ import annotations

import grpc

from cloud_trainer.flows.loop_view import LoopView
from cloud_trainer.service.config import Limits
from cloud_trainer.service.handlers import LoopHandlers
from cloud_trainer.service.servicers.messages import fitting, json_field, json_text, page_after
from gymnast_core.loop_config import LoopConfig
from gymnast_core.wire.gymnast.v1 import loops_pb2
from gymnast_core.wire.identity import Peer

_FIELDS = ("name", "robot", "started_by", "at_ns", "state", "reason", "step", "done", "total", "note", "stopping",
           "revision")  # fmt: skip


class LoopServicer:
    """Loops."""

    def __init__(self, loops: LoopHandlers, limits: Limits) -> None:
        self._loops, self._limits = loops, limits

    def Begin(self, request: loops_pb2.BeginLoopRequest, peer: Peer, context: grpc.ServicerContext) -> loops_pb2.Loop:
        """Begin one, or go on with it."""
        config = LoopConfig.model_validate(json_field(request.config_json, self._limits))
        return _loop(self._loops.begin(peer, config))

    def Get(self, request: loops_pb2.LoopName, peer: Peer, context: grpc.ServicerContext) -> loops_pb2.Loop:
        """One."""
        return _loop(self._loops.find(peer, request.name))

    def List(
        self, request: loops_pb2.ListLoopsRequest, peer: Peer, context: grpc.ServicerContext
    ) -> loops_pb2.ListLoopsReply:
        """A page."""
        rows = page_after(self._loops.all(peer), lambda view: view.name, request.after, request.limit)
        return loops_pb2.ListLoopsReply(loops=fitting(_loop(view) for view in rows))

    def Stop(self, request: loops_pb2.LoopName, peer: Peer, context: grpc.ServicerContext) -> loops_pb2.Loop:
        """End one."""
        return _loop(self._loops.stop(peer, request.name))


def _loop(view: LoopView) -> loops_pb2.Loop:
    return loops_pb2.Loop(**{name: getattr(view, name) for name in _FIELDS}, history_json=json_text(view.history))
