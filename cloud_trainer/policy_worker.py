"""The process that runs a policy for robots without a GPU: InferRequests in, InferReplies out, over its own pipes.

A frame is its length, 4 bytes, big endian, and that many bytes. The first one out is JSON: {version}, or {error,
message} where the policy cannot be loaded. It ends when its input does, as it does with the service's process.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from pathlib import Path
from typing import IO

from gymnast_core.errors import GymnastError
from gymnast_core.policies import serve_policy
from gymnast_core.wire.gymnast.v1 import policy_pb2
from gymnast_core.wire.inference import answers

LENGTH = struct.Struct(">I")


def write_frame(out: IO[bytes], data: bytes) -> None:
    """Write one frame."""
    out.write(LENGTH.pack(len(data)) + data)
    out.flush()


def read_frame(source: IO[bytes]) -> bytes | None:
    """Return the next frame, which may be empty: a request with nothing in it is; None where there is none any more."""
    head = source.read(LENGTH.size)
    return source.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


def main(folder: Path, device: str) -> int:
    """Answer until the other end is closed; returns the exit code."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no frame
    try:
        policy = serve_policy(folder, device=device)
    except GymnastError as error:
        write_frame(out, json.dumps({"error": type(error).__name__, "message": f"{error}"}).encode())
        return 1
    write_frame(out, json.dumps({"version": policy.version}).encode())
    answer = answers(policy)
    while (data := read_frame(sys.stdin.buffer)) is not None:
        write_frame(out, answer(policy_pb2.InferRequest.FromString(data)).SerializeToString())
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which closes our input
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
