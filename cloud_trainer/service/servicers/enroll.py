"""EnrollService: an identity for whoever comes with a one-time code, and the identities that were taken back."""

from __future__ import annotations

import grpc

from cloud_trainer.service.codes import OpenCodes
from gymnast_core.errors import ConfigError
from gymnast_core.wire.gymnast.v1 import enroll_pb2
from gymnast_core.wire.identity import Peer
from gymnast_core.wire.revocation import Revocations

_PAGE = 1000


class EnrollServicer:
    """Identities; without codes where there are no certificates."""

    def __init__(self, codes: OpenCodes | None, revocations: Revocations) -> None:
        self._codes, self._revocations = codes, revocations

    def Enroll(
        self, request: enroll_pb2.EnrollRequest, peer: Peer, context: grpc.ServicerContext
    ) -> enroll_pb2.EnrollReply:
        """Issue it for the key of the caller's connection."""
        if self._codes is None:
            raise ConfigError("this trainer runs with --insecure and has no identities to give")
        certificate, authority, trust = self._codes.redeem(bytes(context.auth_context()["x509_pem_cert"][0]))
        return enroll_pb2.EnrollReply(certificate=certificate, authority=authority, trust=trust)

    def ListRevoked(
        self, request: enroll_pb2.ListRevokedRequest, peer: Peer, context: grpc.ServicerContext
    ) -> enroll_pb2.ListRevokedReply:
        """A page of them."""
        later = [serial for serial in self._revocations.serials(peer.tenant) if serial > request.after]
        return enroll_pb2.ListRevokedReply(serials=later[:_PAGE])
