"""How much is left untyped, and where: parameters that are Any, and lines with dict[str, Any] or Mapping[str, Any].

What we write ourselves has a type with named fields. `object` is for what is only carried: whoever looks inside has to
check first. What is left comes from elsewhere, and each group says from where. A ceiling may fall, never rise.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gymnast_core", "gymnast_ros", "gymnast_client", "cloud_trainer", "gymnast_cli")
UNTYPED = re.compile(r"\b(?:dict|Mapping)\[str, Any\]")
NOTHING = {"Any", "Any | None", "None | Any"}


@dataclass(frozen=True)
class Group:
    """Files that may hold some.

    Attributes:
        why: where their values come from.
        files: paths, or folders that end in a slash.
        parameters: of functions, at most.
        lines: at most.
    """

    why: str
    files: tuple[str, ...]
    parameters: int
    lines: int

    def closeness(self, path: str) -> int:
        """How closely the group names a file; 0 where it does not."""
        named = [name for name in self.files if (path.startswith(name) if name.endswith("/") else path == name)]
        return max(map(len, named), default=0)


GROUPS = (
    Group(
        "datasets, checkpoints and simulators of others: their metadata, pickles and spaces",
        (
            "cloud_trainer/world_model/data/",
            "cloud_trainer/world_model/dit/",
            "cloud_trainer/world_model/gym.py",
            "cloud_trainer/practice/gym.py",
            "cloud_trainer/practice/judge_reward.py",
            "gymnast_core/foreign/mapping.py",
            "gymnast_core/policies/",
            "gymnast_cli/convert_weights.py",
        ),
        parameters=21,
        lines=59,
    ),
    Group(
        "rclpy and the arm's driver, which have no types; node parameters",
        ("gymnast_ros/nodes/", "gymnast_ros/drivers/"),
        parameters=20,
        lines=37,
    ),
    Group(
        "JSON over topics, in orders and in the robot's files, checked where it is read",
        ("gymnast_ros/", "gymnast_core/orders.py", "gymnast_core/evaluation/"),
        parameters=0,
        lines=44,
    ),
    Group(
        "what pydantic, uvicorn, rich, argparse and Ray hand over",
        (
            "gymnast_core/settings.py",
            "gymnast_core/loop_config.py",
            "gymnast_core/jobs/",
            "gymnast_core/web/",
            "gymnast_cli/terminal.py",
            "gymnast_cli/service_flags.py",
            "cloud_trainer/practice/ray/",
        ),
        parameters=22,
        lines=18,
    ),
    Group(
        "specs, results and events of a job of any kind, typed by each kind's Spec and Result",
        (
            "gymnast_core/job.py",
            "gymnast_client/jobs.py",
            "gymnast_client/client.py",
            "cloud_trainer/app/",
            "cloud_trainer/flows/",
            "cloud_trainer/jobs/",
            "cloud_trainer/service/",
            "cloud_trainer/store/",
        ),
        parameters=5,
        lines=37,
    ),
    Group(
        "manifests, lineage and logs: what any producer wrote down",
        (
            "gymnast_core/records/",
            "cloud_trainer/records/",
            "cloud_trainer/service/publish.py",
            "gymnast_client/checkpoints.py",
            "gymnast_client/log.py",
            "gymnast_core/bounds.py",
            "gymnast_core/wire/",
        ),
        parameters=7,
        lines=26,
    ),
    Group(
        "metadata of an episode",
        ("gymnast_core/episodes/", "gymnast_core/types.py", "gymnast_core/judge.py", "gymnast_client/episodes.py"),
        parameters=0,
        lines=15,
    ),
    Group(
        "states, measurements and verdicts of training, as its files keep them",
        (
            "cloud_trainer/training.py",
            "cloud_trainer/training_state.py",
            "cloud_trainer/practice/",
            "cloud_trainer/judge/",
            "cloud_trainer/sft/",
            "cloud_trainer/world_model/",
        ),
        parameters=5,
        lines=36,
    ),
    Group(
        "pages, tables and reports for people, from JSON of all the others",
        ("cloud_trainer/console/", "gymnast_cli/"),
        parameters=6,
        lines=49,
    ),
)


def product() -> Iterator[tuple[str, str]]:
    """Path and text of every file of ours that is no generated one."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if "wire/gymnast/" not in name:
                yield name, path.read_text()


def parameters(text: str) -> int:
    """How many parameters of functions are Any."""
    found = 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            named = [one.annotation for one in every if one is not None and one.annotation is not None]
            found += sum(ast.unparse(annotation) in NOTHING for annotation in named)
    return found


def lines(text: str) -> int:
    """How many lines hold a dict or Mapping of Any."""
    return sum(UNTYPED.search(line) is not None and not line.strip().startswith("#") for line in text.splitlines())


@functools.cache
def counts() -> dict[str, tuple[int, int]]:
    """File -> its parameters and lines without a type, where it has any."""
    return {name: found for name, text in product() if any(found := (parameters(text), lines(text)))}


def group_of(path: str) -> Group | None:
    """The group that names a file most closely."""
    closest = max(GROUPS, key=lambda group: group.closeness(path))
    return closest if closest.closeness(path) else None


def test_a_file_with_untyped_values_has_a_reason():
    strangers = {name: found for name, found in counts().items() if group_of(name) is None}
    assert not strangers, "give these values a type (TypedDict, dataclass, settings), or object where they are carried"


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.why)
def test_untyped_values_do_not_grow(group):
    there = {name: found for name, found in counts().items() if group_of(name) is group}
    total = tuple(map(sum, zip(*there.values(), strict=True))) or (0, 0)
    assert total[0] <= group.parameters, there
    assert total[1] <= group.lines, there


def test_the_counts_see_what_they_should():
    text = "def f(a: Any, *b: Any, c: int, **d: dict[str, Any]) -> Mapping[str, Any]: ...\n# dict[str, Any]\n"
    assert (parameters(text), lines(text)) == (2, 1)
