"""Names on the wire stand in gymnast_ros/nodes/topics.py, once."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPICS = ROOT / "gymnast_ros" / "nodes" / "topics.py"
OF_A_NODE = r"(rollout|bridge|arm|command|command_gate|teleop|page)/[a-z_]+"
NAME = re.compile(rf"{OF_A_NODE}|estop|joy|joint_states|proprioception")
WIRE = ("create_publisher", "create_subscription", "create_service", "create_client", "listen", "listen_json",
        "listen_joints", "LatchedJson", "MarkedJson", "MarkedJoints", "call", "wait_for", "latest")  # fmt: skip
FILES = sorted(
    path
    for top in ("gymnast_ros", "gymnast_cli", "benchmarks")
    for path in (ROOT / top).rglob("*.py")
    if path != TOPICS
)


def literals(path: Path) -> list[str]:
    """Names given as literals to whatever speaks on the wire, and literals anywhere that name a topic of a node."""
    found = []
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in WIRE:
                found += [f"{arg.lineno}: {arg.value}" for arg in node.args
                          if isinstance(arg, ast.Constant) and NAME.fullmatch(str(arg.value))]  # fmt: skip
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "/" in node.value:
            found += [f"{node.lineno}: {node.value}"] * bool(NAME.fullmatch(node.value))
    return sorted(set(found))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_topic_is_named_outside_topics(path: Path) -> None:
    assert literals(path) == []


def test_a_literal_is_found(tmp_path: Path) -> None:
    path = tmp_path / "node.py"
    path.write_text("listen(node, Bool, 'estop', hear)\nNAME = 'rollout/status'\nWORDS = 'no rollout/status came'\n")
    assert literals(path) == ["1: estop", "2: rollout/status"]
