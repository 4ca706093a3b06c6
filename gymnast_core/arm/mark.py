"""Marks that only the processes of one robot's graph can make, so that none of them believes a stranger's message.

A mark is a counter and an HMAC-SHA256 over channel, counter and content. The counter is the sender's monotonic clock,
which all processes of a machine share: it shows how old a message is and never comes twice, across restarts too.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Callable

from gymnast_core.errors import SafetyError

KEY_BYTES = 32
SEPARATOR = "."
_COUNTER_BYTES = 8
_DIGEST = "sha256"


class ForeignError(SafetyError):
    """A message that this graph did not send, or sent before; nobody acts on it."""


class Marker:
    """Marks what one process sends on one channel; safe from any thread.

    Args:
        key: of the graph, KEY_BYTES.
        channel: a topic; a mark is worth nothing on another one.
        now_ns: monotonic clock.
    """

    def __init__(self, key: bytes, channel: str, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._key, self._now_ns = _channel_key(key, channel), now_ns
        self._lock = threading.Lock()
        self._last = 0

    def mark(self, content: bytes) -> str:
        """Return the mark of a message."""
        with self._lock:
            counter = self._last = max(self._last + 1, self._now_ns())
        return f"{counter}{SEPARATOR}{_digest(self._key, counter, content)}"


class MarkChecker:
    """Distinguishes the graph's messages on one channel from all others.

    Args:
        key: of the graph, KEY_BYTES.
        channel: a topic.
        max_age_ns: older messages are refused; None asks for no age, as a latched word may be read late.
        latched: whether what was sent before this checker existed counts, too.
        now_ns: monotonic clock.
    """

    def __init__(
        self,
        key: bytes,
        channel: str,
        *,
        max_age_ns: int | None = None,
        latched: bool = False,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._key, self._max_age_ns, self._now_ns = _channel_key(key, channel), max_age_ns, now_ns
        self._last = 0 if latched else now_ns()

    @property
    def sent_ns(self) -> int:
        """When the newest good message was sent; before the first, when this checker was made."""
        return self._last

    def check(self, content: bytes, mark: str) -> None:
        """Take note of a message.

        Raises:
            ForeignError: it bears no mark of this graph, came before, or is too old.
        """
        count, _, digest = mark.partition(SEPARATOR)
        if not (count.isascii() and count.isdigit() and len(count) < 20):
            raise ForeignError("it bears no mark of this graph")
        counter = int(count)
        if not hmac.compare_digest(_digest(self._key, counter, content), digest.encode(errors="replace").decode()):
            raise ForeignError("its mark is not this graph's")
        if counter <= self._last:
            raise ForeignError("it was sent before, or overtaken")
        age_ns = self._now_ns() - counter
        if self._max_age_ns is not None and age_ns > self._max_age_ns:
            raise ForeignError(f"it is {age_ns / 1e9:.2f} s old")
        self._last = counter


def _channel_key(key: bytes, channel: str) -> bytes:
    return hmac.digest(key, channel.encode(), _DIGEST)


def _digest(key: bytes, counter: int, content: bytes) -> str:
    return hmac.digest(key, counter.to_bytes(_COUNTER_BYTES, "big") + content, _DIGEST).hex()


def graph_id(key: bytes) -> str:
    """Return a name of a graph that gives nothing of its key away."""
    return hashlib.sha256(b"graph" + key).hexdigest()[:12]
