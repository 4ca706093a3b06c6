"""How much a DDS socket of ours may hold, so that a picture survives a reader that the processor keeps waiting."""

from __future__ import annotations

from pathlib import Path

from gymnast_core.finding import Finding

PROFILE = Path(__file__).with_name("fastdds.xml")
"""Fast DDS's settings: datagrams alone, and sockets that hold RECEIVE_BUFFER_BYTES."""
RECEIVE_BUFFER_BYTES = 2 * 1024 * 1024
"""Asked for by each receiving socket: ten pictures of 256 pixels. Linux's usual 212,992 bytes do not hold two."""
LIMIT = Path("/proc/sys/net/core/rmem_max")
"""What the kernel grants at most [bytes]; it cuts a larger request down without a word."""


def examine_sockets(limit: Path = LIMIT) -> Finding | None:
    """Say whether the kernel grants what our sockets ask for; None where that cannot be read.

    Args:
        limit: file with the kernel's limit.
    """
    try:
        granted = int(limit.read_text())
    except (OSError, ValueError):
        return None
    if granted >= RECEIVE_BUFFER_BYTES:
        return Finding("sockets", "ok", f"the kernel grants the {RECEIVE_BUFFER_BYTES} bytes that DDS asks for")
    return Finding(
        "sockets", "warning",
        f"the kernel grants a socket {granted} bytes (net.core.rmem_max), DDS asks for {RECEIVE_BUFFER_BYTES}: a busy "
        "machine may drop pictures",
        f"sudo sysctl -w net.core.rmem_max={RECEIVE_BUFFER_BYTES}, and that setting in /etc/sysctl.d/gymnast.conf; "
        "then start the robot again",
    )  # fmt: skip
