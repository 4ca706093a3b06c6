"""The process that runs a policy for robots without a GPU: InferRequests in, InferReplies out (gymnast_core.framed).

The first frame out is JSON: {version}, or {error, message} where the policy cannot be loaded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from gymnast_core.errors import GymnastError
from gymnast_core.framed import frames, read_frame, write_frame
from gymnast_core.policies import serve_policy
from gymnast_core.policy import Policy
from gymnast_core.wire.gymnast.v1 import policy_pb2
from gymnast_core.wire.inference import answers


def serve(open_policy: Callable[[], Policy]) -> int:
    """Answer until the other end is closed; returns the exit code."""
    source, out = frames()
    try:
        policy = open_policy()
    except GymnastError as error:
        write_frame(out, json.dumps({"error": type(error).__name__, "message": f"{error}"}).encode())
        return 1
    write_frame(out, json.dumps({"version": policy.version}).encode())
    answer = answers(policy)
    while (data := read_frame(source)) is not None:
        write_frame(out, answer(policy_pb2.InferRequest.FromString(data)).SerializeToString())
    return 0


if __name__ == "__main__":
    sys.exit(serve(lambda: serve_policy(Path(sys.argv[1]), device=sys.argv[2])))
