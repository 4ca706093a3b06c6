"""Prometheus metrics of the service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from gymnast_core.wire.address import listen

CALLS = Histogram("gymnast_call_seconds", "Time of finished calls", ["method"])
STREAMS = Gauge("gymnast_open_streams", "Streams open now", ["method"])
ERRORS = Counter("gymnast_refused_calls", "Calls refused, by error", ["method", "error"])
EPISODES = Counter("gymnast_episodes", "Episodes committed and acknowledged")
BYTES = Counter("gymnast_episode_bytes", "Bytes of committed episodes")
QUARANTINED = Counter("gymnast_quarantined_episodes", "Episodes whose content was not believed")


def serve(port: int) -> int:
    """Answer scrapes on 127.0.0.1; returns the port.

    Raises:
        GymnastError: the port is taken.
    """
    listen("127.0.0.1", port, what="Prometheus metrics").close()
    server, _ = start_http_server(port, addr="127.0.0.1")
    return int(server.server_port)
