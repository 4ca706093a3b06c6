"""The two hosts themselves: names, both kinds of addresses, delay, loss, a pulled cable, a new address."""

from __future__ import annotations

import sys

PING = (
    "import socket, sys, time\n"
    "start = time.monotonic()\n"
    "socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])).close()\n"
    "print(time.monotonic() - start)\n"
)
LISTEN = (
    "import socket, sys\n"
    "server = socket.create_server(('::', 0), family=socket.AF_INET6, dualstack_ipv6=True)\n"
    "print(server.getsockname()[1], flush=True)\n"
    "while True: server.accept()[0].close()\n"
)


def test_two_hosts_reach_each_other_by_name_and_address_with_delay_and_after_a_move(hosts):
    listener = hosts.trainer.launch(sys.executable, "-c", LISTEN)
    listener.wait_for("\n")
    port = listener.said().strip()

    def reach(address: str, timeout_s: float = 10) -> float | None:
        done = hosts.robot.shell(sys.executable, "-c", PING, address, port, str(timeout_s))
        return float(done.stdout) if done.returncode == 0 else None

    assert hosts.trainer.shell("hostname").stdout.strip() == "trainer"
    assert hosts.robot.run("--help").returncode == 0
    for address in ("trainer.lab", "trainer", hosts.trainer.ipv4, hosts.trainer.ipv6):
        assert reach(address) is not None, address
    hosts.worse(delay_ms=200)
    for address in (hosts.trainer.ipv4, hosts.trainer.ipv6):
        assert reach(address) > 0.2
    hosts.worse(loss_percent=100)
    assert reach(hosts.trainer.ipv4, 0.5) is None
    hosts.better()
    assert reach(hosts.trainer.ipv6) is not None
    hosts.cut()
    assert reach(hosts.trainer.ipv4, 0.5) is None
    hosts.join()
    assert reach(hosts.trainer.ipv4) is not None
    was = hosts.trainer.ipv4
    hosts.move(hosts.trainer, "10.77.0.77", "fd77::77")
    assert reach(was, 0.5) is None
    assert reach("trainer.lab") is not None
    listener.stop()
