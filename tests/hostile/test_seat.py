"""Two graphs of one robot, and other users of the machine who plant files, links and names where a graph starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gymnast_core.errors import ConfigError
from gymnast_core.policies import compiling
from gymnast_ros import seat
from gymnast_ros.graph import GraphConfig
from gymnast_ros.keyring import Claim, Keyring, folder_of

ROOT = Path(__file__).parents[2]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="plays another user of the machine, which root can")


@pytest.fixture
def config(tmp_path, monkeypatch) -> GraphConfig:
    """Of a robot whose name nobody else uses at this moment."""
    monkeypatch.setattr(seat, "PREFIX", f"\0gymnast-test-{os.getpid()}-{tmp_path.name}-")
    return GraphConfig(folder=tmp_path / "robot", robot_name="wx-1", domain_id=3)


def test_a_second_graph_is_refused_by_name_and_the_seat_is_free_with_its_process(config, tmp_path):
    other = GraphConfig(folder=tmp_path / "other", domain_id=3)
    program = (
        "import sys, time; from gymnast_ros import seat; from gymnast_ros.graph import GraphConfig; "
        "from gymnast_ros.keyring import Claim; from pathlib import Path; seat.PREFIX = chr(0) + sys.argv[1]; "
        "claim = Claim(GraphConfig(folder=Path(sys.argv[2]), robot_name='wx-1', domain_id=3)); "
        "print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, seat.PREFIX[1:], str(config.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        for _ in range(20):  # each is answered, nothing fills up
            with pytest.raises(ConfigError, match=rf"robot 'wx-1' .*process {first.pid}\) is running already"):
                Claim(other)
        first.kill()
    claim = Claim(other)
    claim.release()
    Claim(other).release()


def test_graphs_of_other_domains_and_arms_stand_beside_each_other(config, tmp_path):
    claims = [Claim(config)]
    claims += [Claim(GraphConfig(folder=tmp_path / "a", domain_id=4))]
    claims += [Claim(GraphConfig(folder=tmp_path / "b", domain_id=3, namespace="left"))]
    with pytest.raises(ConfigError, match="is running already"):
        Claim(GraphConfig(folder=config.folder, domain_id=5))
    for claim in claims:
        claim.release()


@pytest.mark.parametrize("listens", [True, False])
def test_whoever_takes_the_name_is_named_or_the_command_that_names_him_is(config, listens):
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind(f"{seat.PREFIX}3-arm")
        if listens:
            squatter.listen(1)
        named = f"process {os.getpid()} holds the name" if listens else "ss -xae"
        with pytest.raises(ConfigError, match=named):
            Claim(config)
    Claim(config).release()


def test_odd_words_of_whoever_holds_the_name_stay_one_line(config):
    held = seat.Seat("3", "arm", {"robot": "x\n\x1b[2J" * 500, "domain": [], "folder": {}})
    with pytest.raises(ConfigError) as refused:
        Claim(config)
    held.close()
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)
    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("planted", ["gate", "graph", "key"])
def test_a_link_that_somebody_planted_is_not_written_through(config, tmp_path, planted):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    gate = folder_of(config.folder)
    config.folder.mkdir()
    if planted == "gate":
        gate.symlink_to(precious)
    else:
        gate.mkdir(mode=0o700)
        (gate / planted).symlink_to(precious / "file")
    if planted == "key":  # replaced by a file of our own
        Claim(config).release()
        assert not (gate / "key").is_symlink()
    else:
        with pytest.raises((ConfigError, OSError), match=r"a link|symbolic link"):
            Claim(config)
    assert [path.name for path in precious.iterdir()] == ["file"]
    assert (precious / "file").read_text() == "mine"


def test_a_robot_folder_that_everybody_may_write_to_is_refused_with_the_remedy(config):
    config.folder.mkdir()
    config.folder.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod o-w"):
        Claim(config)
    config.folder.chmod(0o755)
    Claim(config).release()


@as_root
def test_a_gate_folder_or_a_key_of_another_user_is_refused(config, monkeypatch):
    gate = folder_of(config.folder)
    gate.mkdir(parents=True, mode=0o700)
    os.chown(gate, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match=f"not a folder of yours but user {NOBODY}'s"):
        Claim(config)
    os.chown(gate, 0, 0)
    Claim(config).release()
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with pytest.raises(ConfigError, match="is user 0's"):
        Keyring.load(gate)


def test_a_key_that_others_may_read_is_refused(config):
    Claim(config).release()
    (folder_of(config.folder) / "key").chmod(0o644)
    with pytest.raises(ConfigError, match="others may use it; start the graph again"):
        Keyring.load(folder_of(config.folder))


def test_compiled_networks_are_kept_where_no_other_user_can_plant_any(tmp_path, monkeypatch):
    """Whoever makes /tmp/torchinductor_USER first would have his code run; each torch.compile of ours asks before."""
    monkeypatch.setenv(compiling.VARIABLE, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    compiling.keep_compiled_private()
    own = Path(os.environ[compiling.VARIABLE])
    assert own.is_relative_to(tmp_path)
    assert own.stat().st_mode & 0o077 == 0
    compilers = [
        path for room in ("gymnast_core", "cloud_trainer", "gymnast_ros") for path in (ROOT / room).rglob("*.py")
        if "= torch.compile(" in path.read_text()
    ]  # fmt: skip
    assert compilers
    assert [path.name for path in compilers if "keep_compiled_private()" not in path.read_text()] == []
