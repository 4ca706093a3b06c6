"""LoopService: unattended loops."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc

from cloud_trainer.flows.loop_view import RUNNING, LoopView, named
from cloud_trainer.service.config import Limits
from cloud_trainer.service.handlers import LoopHandlers
from cloud_trainer.service.servicers.messages import fitting, json_field, json_text, page_after
from cloud_trainer.service.stopping import Stopping
from gymnast_core.loop_config import LoopConfig
from gymnast_core.wire.gymnast.v1 import loops_pb2
from gymnast_core.wire.identity import Peer

_POLL_S = 0.3
_FIELDS = ("name", "robots", "started_by", "at_ns", "state", "reason", "step", "done", "total", "note", "stopping",
           "revision")  # fmt: skip


class LoopServicer:
    """Loops."""

    def __init__(self, loops: LoopHandlers, limits: Limits, stopping: Stopping) -> None:
        self._loops, self._limits, self._stopping = loops, limits, stopping

    def Begin(self, request: loops_pb2.BeginLoopRequest, peer: Peer, context: grpc.ServicerContext) -> loops_pb2.Loop:
        """Begin one, or go on with it."""
        config = LoopConfig.model_validate(json_field(request.config_json, self._limits))
        return _loop(self._loops.begin(peer, config))

    def Get(self, request: loops_pb2.LoopName, peer: Peer, context: grpc.ServicerContext) -> loops_pb2.Loop:
        """One."""
        return _loop(self._loops.find(peer, request.name))

    def Watch(self, request: loops_pb2.LoopName, peer: Peer, context: grpc.ServicerContext) -> Iterator[loops_pb2.Loop]:
        """As it is now, then after every change, until it has ended."""
        shown = None
        while context.is_active():
            self._stopping.check()
            message = _loop(self._loops.find(peer, request.name))
            if message != shown:
                yield message
                shown = message
            if message.state != RUNNING:
                return
            time.sleep(_POLL_S)

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
    return loops_pb2.Loop(
        **{name: getattr(view, name) for name in _FIELDS}, robot=named(view.robots),
        history_json=json_text(view.history),
    )  # fmt: skip
