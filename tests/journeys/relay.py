"""Carries packets between two namespaces with delay and loss, for kernels without netem.

    python -m tests.journeys.relay DELAY_S LOSS NAMESPACE NAMESPACE

It makes an interface "relay" in each namespace, prints "ready", and carries until its input ends (so also when its
parent was killed); both vanish with it.
"""

from __future__ import annotations

import collections
import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x1, 0x1000
_CLONE_NEWNET = 0x40000000
_QUEUE = 2000  # packets under way, as a router's: what comes on top is lost


def interface(namespace: str) -> int:
    """Make one; returns its file."""
    libc = ctypes.CDLL(None, use_errno=True)
    there = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
    if libc.setns(there, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    os.close(there)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH14x", b"relay", _IFF_TUN | _IFF_NO_PI))
    subprocess.run(["ip", "link", "set", "relay", "up", "txqueuelen", "5000"], check=True)
    return tun


def carry(ends: tuple[int, int], delay_s: float, loss: float) -> None:
    """Carry until the input ends; the lost ones are drawn from a seeded generator."""
    rng = random.Random(0)
    under_way: collections.deque[tuple[float, int, bytes]] = collections.deque()
    while True:
        wait_s = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        ready, _, _ = select.select((*ends, sys.stdin), (), (), wait_s)
        if sys.stdin in ready:
            return
        for end in ready:
            packet = os.read(end, 65536)
            if rng.random() >= loss and len(under_way) < _QUEUE:
                under_way.append((time.monotonic() + delay_s, ends[1] if end == ends[0] else ends[0], packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, other, packet = under_way.popleft()
            try:
                os.write(other, packet)
            except OSError:
                continue  # the interface has no room, or no address for it: lost, as on a wire


def main() -> None:
    """Make both ends and carry."""
    delay_s, loss, *namespaces = sys.argv[1:]
    ends = interface(namespaces[0]), interface(namespaces[1])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    carry(ends, float(delay_s), float(loss))


if __name__ == "__main__":
    main()
