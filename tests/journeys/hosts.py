"""Two machines on one: network namespaces with names, addresses and a cable between them, for journeys across hosts.

    def test_something(hosts):                      # the fixture of tests/journeys/conftest.py
        trainer = hosts.trainer.start("serve", "--folder", str(folder), "--host", "::")
        trainer.wait_for("serving address")
        hosts.worse(delay_ms=50, loss_percent=1)
        done = hosts.robot.run("jobs", "list", "--trainer", "trainer.lab:50051", "--identity", str(identity))
        assert done.returncode == 0, done.stdout + done.stderr

A host has its own network, host name, /etc/hosts and shared memory (DDS of one never meets DDS of the other), and the
same files and users as this machine.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

GYMNAST = Path(sys.executable).parent / "gymnast"
"""The shipped command."""

_NETNS, _NAMES = Path("/run/netns"), Path("/etc/netns")
_PREFIX = "gymlab"
_COUNT = itertools.count()
_ENTER = 'mount --bind "/dev/shm/$0" /dev/shm; echo "$1" > /proc/sys/kernel/hostname; shift; exec "$@"'


class NoHostsError(Exception):
    """Two hosts cannot be had here; the message gives the reason."""


class Started:
    """A command that goes on in a host.

    Args:
        process: of the command itself.
        log: gets its output, both streams.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def said(self) -> str:
        """Everything it printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, timeout_s: float = 120.0) -> str:
        """Wait until it printed a text; returns everything it printed.

        Raises:
            AssertionError: it ended without, or did not print it in time.
        """
        self.wait_until(lambda: text in self.said(), f"{text!r}", timeout_s)
        return self.said()

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = 120.0) -> None:
        """Wait for a condition while the command runs.

        Raises:
            AssertionError: the command ended, or it took too long.
        """
        until = time.monotonic() + timeout_s
        while not condition():
            ended = self.process.poll() is not None
            if (ended and not condition()) or time.monotonic() > until:
                raise AssertionError(f"no {what}; {'it ended' if ended else 'still running'}:\n{self.said()[-4000:]}")
            time.sleep(0.05)

    def stop(self, how: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout_s)


class Host:
    """One machine.

    Args:
        name: full name, e.g. trainer.lab; its first part is its host name.
        namespace: of the kernel.
        folder: for logs.
    """

    def __init__(self, name: str, namespace: str, folder: Path) -> None:
        self.name, self.namespace, self._folder = name, namespace, folder
        self.ipv4, self.ipv6, self.aliases = "", "", [name, name.partition(".")[0]]
        self.started: list[Started] = []

    def run(
        self, *words: str, timeout_s: float = 120.0, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `gymnast WORDS` to its end, output captured."""
        return self.shell(str(GYMNAST), *words, timeout_s=timeout_s, env=env, cwd=cwd)

    def shell(
        self, *command: str, timeout_s: float = 120.0, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run any command of this machine to its end, output captured."""
        inside = self._inside(command)
        return subprocess.run(
            inside, capture_output=True, text=True, timeout=timeout_s, env=_environment(env), cwd=cwd, check=False
        )

    def start(self, *words: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Started:
        """Start `gymnast WORDS`; it ends with the hosts at the latest."""
        return self.launch(str(GYMNAST), *words, env=env, cwd=cwd)

    def launch(self, *command: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Started:
        """Start any command of this machine; it ends with the hosts at the latest."""
        log = self._folder / f"{self.name}-{next(_COUNT)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(self._inside(command), stdout=out, stderr=out, env=_environment(env), cwd=cwd)
        self.started.append(Started(process, log))
        return self.started[-1]

    def address(self, ipv4: str, ipv6: str) -> None:
        """Give its end of the cable these addresses in place of those it had, but tell no other host."""
        _ip("-n", self.namespace, "addr", "flush", "dev", "cable", "scope", "global")
        _ip("-n", self.namespace, "addr", "add", f"{ipv4}/24", "dev", "cable")
        _ip("-n", self.namespace, "addr", "add", f"{ipv6}/64", "dev", "cable", "nodad")
        self.ipv4, self.ipv6 = ipv4, ipv6

    def _inside(self, command: tuple[str, ...]) -> list[str]:
        enter = ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-ec", _ENTER]
        return [*enter, self.namespace, self.name.partition(".")[0], *command]


class Hosts:
    """Two machines, `trainer` (trainer.lab) and `robot` (robot.lab), and the cable between them.

    Args:
        folder: for logs.

    Raises:
        NoHostsError: not root, or iproute2 is missing, or this kernel has no namespaces.
    """

    def __init__(self, folder: Path) -> None:
        _check_possible()
        _sweep()
        names = [f"{_PREFIX}-{os.getpid()}-{next(_COUNT)}-{end}" for end in ("t", "r")]
        self.trainer = Host("trainer.lab", names[0], folder)
        self.robot = Host("robot.lab", names[1], folder)
        self._relay: subprocess.Popen[bytes] | None = None
        try:
            self._make()
        except NoHostsError:
            self.close()
            raise

    def worse(self, *, delay_ms: float = 0, loss_percent: float = 0) -> None:
        """Delay each packet, half of it in each direction of a round trip, and lose some in each direction.

        By `tc netem`; where the kernel lacks it, packets are carried by a process (tests/journeys/relay.py) that
        delays and loses them likewise.

        Args:
            delay_ms: added to a round trip.
            loss_percent: of the packets, each way.
        """
        self.better()
        for host in self._both():
            netem = ("qdisc", "replace", "dev", "cable", "root", "netem")
            how = ("delay", f"{delay_ms / 2}ms", "loss", f"{loss_percent}%", "limit", "100000")
            done = subprocess.run(
                ["tc", "-n", host.namespace, *netem, *how], capture_output=True, text=True, check=False
            )
            if "unknown" in done.stderr:
                self._carry(delay_ms / 2000, loss_percent / 100)
                return
            if done.returncode:
                raise NoHostsError(f"tc netem: {done.stderr.strip()}")

    def better(self) -> None:
        """Take delay and loss away again."""
        for host in self._both():
            heal = ["tc", "-n", host.namespace, "qdisc", "del", "dev", "cable", "root"]
            subprocess.run(heal, capture_output=True, check=False)
        self._end_relay()

    def cut(self) -> None:
        """Pull the cable: packets vanish, nobody is told."""
        for host in self._both():
            _ip("-n", host.namespace, "link", "set", "cable", "down")

    def join(self) -> None:
        """Put it back."""
        for host in self._both():
            _ip("-n", host.namespace, "link", "set", "cable", "up")
            _ip("-n", host.namespace, "addr", "flush", "dev", "cable", "scope", "global")
            host.address(host.ipv4, host.ipv6)

    def move(self, host: Host, ipv4: str, ipv6: str) -> None:
        """Give a host other addresses under the same name, as a router does over night."""
        host.address(ipv4, ipv6)
        self._write_names()

    def call(self, host: Host, alias: str) -> None:
        """Have a host reached by another name as well, as an entry in the name service does."""
        host.aliases.append(alias)
        self._write_names()

    def close(self) -> None:
        """End every process of both hosts, and take them away."""
        self._end_relay()
        for host in self._both():
            _remove(host.namespace)
            for started in host.started:
                started.process.wait(20)

    def _make(self) -> None:
        for host in self._both():
            _ip("netns", "add", host.namespace)
            Path("/dev/shm", host.namespace).mkdir()
            _ip("-n", host.namespace, "link", "set", "lo", "up")
        cable = ("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", self.robot.namespace)
        _ip("-n", self.trainer.namespace, *cable)
        for number, host in enumerate(self._both(), start=1):
            _ip("-n", host.namespace, "link", "set", "cable", "up")
            host.address(f"10.77.0.{number}", f"fd77::{number}")
        self._write_names()

    def _write_names(self) -> None:
        """Write both hosts' /etc/hosts; files are kept in place, for they are mounted into what runs."""
        for me in self._both():
            lines = ["127.0.0.1 localhost", "::1 localhost"]
            for host in self._both():
                lines += [f"{address} {' '.join(host.aliases)}" for address in (host.ipv4, host.ipv6)]
            folder = _NAMES / me.namespace
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts").write_text("\n".join(lines) + "\n")
            (folder / "resolv.conf").write_text("options timeout:1 attempts:1\n")

    def _carry(self, delay_s: float, loss: float) -> None:
        words = [delay_s, loss, self.trainer.namespace, self.robot.namespace]
        command = [sys.executable, "-m", "tests.journeys.relay", *map(str, words)]
        here = Path(__file__).parents[2]
        self._relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=here)
        assert self._relay.stdout is not None  # asked for above
        if self._relay.stdout.readline() != b"ready\n":
            raise NoHostsError("neither tc netem nor /dev/net/tun works here: delay and loss cannot be had")
        for me, other in ((self.trainer, self.robot), (self.robot, self.trainer)):
            for family, address, own in (("-4", other.ipv4, me.ipv4), ("-6", other.ipv6, me.ipv6)):
                _ip("-n", me.namespace, family, "route", "replace", address, "dev", "relay", "src", own)

    def _end_relay(self) -> None:
        if self._relay is not None:
            self._relay.communicate()
            self._relay = None

    def _both(self) -> tuple[Host, Host]:
        return self.trainer, self.robot


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Make two hosts, and take them away with everything that still runs in them; raises as Hosts."""
    hosts = Hosts(folder)
    try:
        yield hosts
    finally:
        hosts.close()


def _check_possible() -> None:
    if os.geteuid() != 0:
        raise NoHostsError("two hosts need root (network namespaces)")
    for tool, package in (("ip", "iproute2"), ("tc", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(tool) is None:
            raise NoHostsError(f"two hosts need {tool}: apt-get install {package}")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoHostsError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    """The environment of this machine, without what would lead a command elsewhere."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GYMNAST_")}
    return {**ours, "OMP_NUM_THREADS": "1", **(more or {})}


def _sweep() -> None:
    """Remove what a killed test run left."""
    for path in _NETNS.glob(f"{_PREFIX}-*"):
        if not Path("/proc", path.name.split("-")[1]).exists():
            _remove(path.name)


def _remove(namespace: str) -> None:
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    for pid in found.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
    for folder in (_NAMES / namespace, Path("/dev/shm", namespace)):
        shutil.rmtree(folder, ignore_errors=True)
