"""The SROS2 keystore: what OpenSSL makes of it, and that it allows what a running graph does, and nothing more.

Not tested: a graph under it. Fast DDS of the rclpy wheels is compiled without security.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from xml.etree import ElementTree

import pytest
import rclpy
from rclpy.node import Node

from gymnast_cli.main import main
from gymnast_core.errors import ConfigError
from gymnast_ros.arguments import check_files
from gymnast_ros.bringup import Graph
from gymnast_ros.drivers.interbotix import NODE_NAME
from gymnast_ros.enclaves import Access, check_keystore, make_keystore, security_environment
from gymnast_ros.graph import GraphConfig, graph
from gymnast_ros.nodes.access import OF_A_NODE, VENDOR_SERVICES, VENDOR_TOPICS, access_of
from gymnast_ros.nodes.client import GraphClient
from tests.ros.conftest import wait_until
from tests.ros.test_bridge_node import checkpoint
from tests.ros.test_page import free_port

OPENSSL = shutil.which("openssl")
SAYS, HEARS = "publish", "subscribe"
ARM, ALL = "rt/command/arm", ("arm", "command_gate", "rollout", "bridge", "teleop", "page", "operator", "joy")


def openssl(*arguments: object) -> str:
    done = subprocess.run([OPENSSL, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def allowed(keystore: Path, enclave: str) -> dict[str, list[str]]:
    """Topics on the wire by what the enclave may do with them, from the signed document alone."""
    own, authority = keystore / "enclaves" / enclave, keystore / "public" / "permissions_ca.cert.pem"
    signed = openssl("smime", "-verify", "-text", "-in", own / "permissions.p7s", "-CAfile", authority)
    (grant,) = ElementTree.fromstring(signed).iter("grant")
    assert [part.tag for part in grant] == ["subject_name", "validity", "allow_rule", "default"]
    assert grant.findtext("subject_name") == f"CN=/{enclave}"
    assert grant.findtext("default") == "DENY"
    (rule,) = grant.iter("allow_rule")
    assert [part.tag for part in rule] == ["domains", SAYS, HEARS]
    return {kind: [topic.text or "" for topic in rule.iterfind(f"{kind}/topics/topic")] for kind in (SAYS, HEARS)}


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    assert main(["enclaves", str(folder), "--domain", "7"]) == 0
    return folder


@pytest.mark.skipif(OPENSSL is None, reason="needs openssl")
def test_a_keystore_is_what_openssl_and_sros2_expect(keystore: Path) -> None:
    authority, signed = keystore / "public" / "identity_ca.cert.pem", keystore / "enclaves" / "governance.p7s"
    governance = openssl("smime", "-verify", "-text", "-in", signed, "-CAfile", authority)
    rule = ElementTree.fromstring(governance).find("domain_access_rules/domain_rule")
    assert (rule.findtext("domains/id"), rule.findtext("allow_unauthenticated_participants")) == ("7", "false")
    assert rule.findtext("topic_access_rules/topic_rule/enable_write_access_control") == "true"
    for enclave in ALL:
        own = keystore / "enclaves" / enclave
        openssl("verify", "-CAfile", authority, own / "cert.pem")
        assert openssl("x509", "-in", own / "cert.pem", "-noout", "-subject").split("=", 1)[1].strip() in (
            f"CN = /{enclave}", f"CN=/{enclave}",
        )  # fmt: skip
        public = openssl("pkey", "-in", own / "key.pem", "-pubout")
        assert openssl("x509", "-in", own / "cert.pem", "-noout", "-pubkey") == public
        assert stat.S_IMODE((own / "key.pem").stat().st_mode) == 0o600
        assert (own / "governance.p7s").read_bytes() == signed.read_bytes()
    assert stat.S_IMODE((keystore / "private").stat().st_mode) == 0o700


@pytest.mark.skipif(OPENSSL is None, reason="needs openssl")
def test_only_the_gate_commands_the_arm_and_few_may_ask_it_to_re_arm(keystore: Path) -> None:
    says = {enclave: set(allowed(keystore, enclave)[SAYS]) for enclave in ALL}

    def who(topic: str) -> set[str]:
        return {enclave for enclave, names in says.items() if any(fnmatchcase(topic, name) for name in names)}

    assert who(ARM) == {"command_gate"}
    assert who("rt/command_gate/status") == {"command_gate"}
    assert who("rt/command/policy") == {"rollout"}
    assert who("rt/command/teleop") == who("rt/command/take_over") == {"teleop"}
    assert who("rt/arm/target") == who("rr/arm/resetReply") == {"arm"}
    assert who("rq/command_gate/set_parametersRequest") == {"teleop", "page", "operator"}
    assert who("rq/arm/recoverRequest") == {"page", "operator"}
    assert who("rt/joy") == {"joy", "operator"}


def test_a_second_run_keeps_good_keys_and_follows_the_settings(tmp_path: Path) -> None:
    config = GraphConfig(folder=tmp_path / "robot", enclaves=tmp_path)
    assert len(make_keystore(tmp_path, access_of(config), domain=0)) == len(ALL)
    check_files(config)
    key = (tmp_path / "enclaves" / "arm" / "key.pem").read_bytes()
    assert make_keystore(tmp_path, access_of(config), domain=3) == []
    assert (tmp_path / "enclaves" / "arm" / "key.pem").read_bytes() == key
    assert "<id>3</id>" in (tmp_path / "enclaves" / "arm" / "permissions.xml").read_text()
    (tmp_path / "enclaves" / "rollout" / "cert.pem").unlink()
    with pytest.raises(ConfigError, match=r"has no cert\.pem of /rollout; gymnast enclaves"):
        check_files(config)
    assert make_keystore(tmp_path, access_of(config), domain=3, days=0) == ["/rollout"]
    with pytest.raises(ConfigError, match=r"identity of /rollout ran out on 20"):
        check_files(config)
    with pytest.raises(ConfigError, match=r"has no .* of /left/arm"):
        check_keystore(tmp_path, ["/left/arm"])


def test_every_process_is_started_in_its_enclave(tmp_path: Path) -> None:
    config = GraphConfig(folder=tmp_path, namespace="left", enclaves=tmp_path, teleop=True)
    for spec in graph(config):
        arguments = spec.ros_arguments()
        assert arguments[arguments.index("--enclave") + 1] == f"/left/{spec.name}"
    assert security_environment(tmp_path)["ROS_SECURITY_STRATEGY"] == "Enforce"
    assert "--enclave" not in " ".join(graph(GraphConfig(folder=tmp_path))[0].ros_arguments())


@dataclass
class Looker:
    """Asks the middleware who says and hears what."""

    node: Node

    def used(self) -> dict[str, Mapping[str, set[str]]]:
        """Enclave -> kind -> names, of every node of a graph."""
        ask = self.node
        found: dict[str, dict[str, set[str]]] = {}
        for name, namespace in ask.get_node_names_and_namespaces():
            if (process := process_of(name)) is None:
                continue
            kinds = {
                "publish": ask.get_publisher_names_and_types_by_node,
                "subscribe": ask.get_subscriber_names_and_types_by_node,
                "serve": ask.get_service_names_and_types_by_node,
                "call": ask.get_client_names_and_types_by_node,
            }
            own = found.setdefault(f"{namespace.rstrip('/')}/{process}", {kind: set() for kind in kinds})
            for kind, names in kinds.items():
                own[kind] |= {found_name for found_name, _ in names(name, namespace)}
        return found


def process_of(node: str) -> str | None:
    """The process of a node; None where it is none of the graph's."""
    parts = {"command_gate_estop": "command_gate", "rollout_env": "rollout", "arm_cameras": "arm"}
    return parts.get(node, node) if parts.get(node, node) in ALL else None


@contextmanager
def looking(domain: int) -> Iterator[Looker]:
    own = rclpy.Context()
    rclpy.init(context=own, domain_id=domain)
    node = Node("looker", context=own, enable_rosout=False, start_parameter_services=False)
    yield Looker(node)
    node.destroy_node()
    own.try_shutdown()


def difference(access: Access, used: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """What is used and not allowed, and what is allowed and not used, by kind."""
    found = {}
    for kind in ("publish", "subscribe", "serve", "call"):
        grants: frozenset[str] = getattr(access, kind)
        found[f"forbidden {kind}"] = {name for name in used[kind] if not any(fnmatchcase(name, one) for one in grants)}
        found[f"unused {kind}"] = {one for one in grants if not any(fnmatchcase(name, one) for name in used[kind])}
    return {kind: names for kind, names in found.items() if names}


BRIDGE_SELDOM = {  # its client of the graph, which it makes when the first order comes (gymnast_ros.run.orders)
    "unused publish": {"/rollout/request", "/bridge/request"},
    "unused subscribe": {"/rollout/result", "/bridge/result", "/rollout/answer", "/bridge/answer"},
    "unused call": {"/arm/reset"},
}
ROLLOUT_SELDOM = {"unused subscribe": {"/arm/notes"}}  # of a real arm


def rows(looker: Looker, config: GraphConfig) -> dict[str, dict[str, set[str]]]:
    """Enclave -> what its process does and may not, or may and does not."""
    used = looker.used()
    accesses = [access for access in access_of(config) if access.enclave in used]
    return {access.enclave: found for access in accesses if (found := difference(access, used[access.enclave]))}


def as_expected(looker: Looker, config: GraphConfig, expected: Mapping[str, Mapping[str, set[str]]]) -> None:
    """Wait until discovery is through, then show what is different."""
    names = {spec.name for spec in graph(config)}
    deadline = time.monotonic() + 60.0
    while rows(looker, config) != expected and time.monotonic() < deadline:
        time.sleep(0.2)
    assert rows(looker, config) == expected
    assert set(looker.used()) == {f"/{name}" for name in names}


def test_a_running_graph_does_what_its_enclaves_allow_and_nothing_is_allowed_besides(domain_id, tmp_path) -> None:
    checkpoint(tmp_path / "base", 0)
    config = GraphConfig(
        folder=tmp_path / "robot", domain_id=domain_id, trainer="127.0.0.1:9", insecure=True, teleop=True, orders=True,
        page=free_port(), policy=str(tmp_path / "base"),
    )  # fmt: skip
    with Graph(config), GraphClient(domain_id=domain_id, folder=config.folder) as client, looking(domain_id) as looker:
        client.wait_ready(60.0)
        client.run_episode(instruction="lift", seed=0, record=False)  # it opens what the rollout needs of the arm
        as_expected(looker, config, {"/bridge": BRIDGE_SELDOM, "/rollout": ROLLOUT_SELDOM})


VENDOR = {  # the vendor's node, for which the test has a stand-in that is none
    "unused publish": {f"/wx250s/{name}" for name in VENDOR_TOPICS},
    "unused subscribe": {"/wx250s/joint_states"},
    "unused serve": {f"/{NODE_NAME}/{service}" for service in OF_A_NODE},
    "unused call": {f"/wx250s/{name}" for name in VENDOR_SERVICES},
}


def test_a_real_arms_graph_does_what_its_enclaves_allow(domain_id, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STANDIN_FAULTS", str(tmp_path / "faults.json"))
    monkeypatch.setenv("STANDIN_REPORT", str(tmp_path / "report.json"))
    config = GraphConfig(
        folder=tmp_path, robot="widowx", camera="usb_cam", domain_id=domain_id,
        parameters={"arm": {"vendor": "tests.ros.standin", "autostart": True}},
    )  # fmt: skip
    with Graph(config), looking(domain_id) as looker:
        deadline = time.monotonic() + 60.0
        while set(looker.used()) != {"/arm", "/command_gate", "/rollout"} and time.monotonic() < deadline:
            time.sleep(0.2)
        found = rows(looker, config)
        while (found.get("/arm") != VENDOR or set(found) - {"/arm", "/rollout"}) and time.monotonic() < deadline:
            time.sleep(0.2)  # a node is seen before each of its services is
            found = rows(looker, config)
        assert found.pop("/arm") == VENDOR
        assert all(kind.startswith("unused") for kind in found.pop("/rollout"))  # rollout_env comes with an episode
        assert found == {}


def test_gymnast_up_starts_every_node_in_its_enclave_or_ends_by_name(domain_id, keystore, tmp_path) -> None:
    """The wheels' Fast DDS has no security: rcl finds the enclave, then the node may not run and is not tried again."""
    assert main(["enclaves", str(keystore), "--domain", str(domain_id)]) == 0
    command = ["up", "--domain", str(domain_id), "--folder", str(tmp_path), "--enclaves", str(keystore)]
    with (tmp_path / "terminal").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "gymnast_cli.main", *command], stdout=log, stderr=log)
    terminal = tmp_path / "terminal"
    try:
        wait_until(lambda: process.poll() is not None or armed(terminal), 120.0, "the arm, or the end")
    finally:
        process.terminate()
        code = process.wait(60.0)
    if armed(terminal):
        return
    said = (tmp_path / "logs" / "arm.log").read_text()
    assert f"Found security directory: {keystore}/enclaves/arm" in said
    assert (code, "ROS_SECURITY_ENABLE" in said, "security libraries" in said) == (1, True, True), terminal.read_text()


def armed(terminal: Path) -> bool:
    """Whether the graph runs, on a ROS distribution whose middleware has security."""
    return "armed: commands pass" in terminal.read_text()
