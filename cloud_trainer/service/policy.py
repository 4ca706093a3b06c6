"""PolicyService: runs a policy for robots that have no GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import grpc

from gymnast_core.errors import GymnastError
from gymnast_core.wire.gymnast.v1 import policy_pb2
from gymnast_core.wire.identity import Peer
from gymnast_core.wire.inference import Answer, failed

LOG = logging.getLogger(__name__)


class PolicyServicer:
    """PolicyService.

    Args:
        provide: gives what answers requests; asked once per stream, so that a stream keeps one version.
    """

    def __init__(self, provide: Callable[[], Answer]) -> None:
        self._provide = provide

    def Infer(
        self, requests: Iterator[policy_pb2.InferRequest], peer: Peer, context: grpc.ServicerContext
    ) -> Iterator[policy_pb2.InferReply]:
        """One reply per request, in order; what fails is reported by name and the stream goes on."""
        answer = self._provide()
        LOG.info("infer_stream peer=%s", peer.name)
        for request in requests:
            try:
                reply = answer(request)
            except GymnastError as error:
                reply = failed(request, "", error)
            if reply.error:
                LOG.warning("infer_failed peer=%s policy=%s error=%s", peer.name, reply.policy_version, reply.message)
            yield reply
