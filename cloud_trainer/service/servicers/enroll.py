"""EnrollService: an identity for whoever comes with a one-time code."""

from __future__ import annotations

import grpc

from cloud_trainer.service.codes import OpenCodes
from gymnast_core.errors import ConfigError
from gymnast_core.wire.gymnast.v1 import enroll_pb2
from gymnast_core.wire.identity import Peer


class EnrollServicer:
    """Identities; None where there are no certificates."""

    def __init__(self, codes: OpenCodes | None) -> None:
        self._codes = codes

    def Enroll(
        self, request: enroll_pb2.EnrollRequest, peer: Peer, context: grpc.ServicerContext
    ) -> enroll_pb2.EnrollReply:
        """Issue it for the key of the caller's connection."""
        if self._codes is None:
            raise ConfigError("this trainer runs with --insecure and has no identities to give")
        certificate, authority, trust = self._codes.redeem(bytes(context.auth_context()["x509_pem_cert"][0]))
        return enroll_pb2.EnrollReply(certificate=certificate, authority=authority, trust=trust)
