"""The card of an exported dataset: README.md with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from cloud_trainer.world_model.data.export.staging import Row
from gymnast_core.text import table_cell

_FRONT = {
    "lerobot": "tags:\n- LeRobot\n- gymnast\nconfigs:\n- config_name: default\n  data_files: data/*/*.parquet\n",
    "rlds": "tags:\n- rlds\n- gymnast\n",
}
_LOADED = {
    "lerobot": 'from lerobot.datasets import LeRobotDataset\n\ndataset = LeRobotDataset("lab/{name}", root="{name}")',
    "rlds": 'import tensorflow_datasets as tfds\n\ndataset = tfds.builder_from_directory("{name}/1.0.0").as_dataset()',
}
_MOST = 50


def write_card(path: Path, name: str, form: str, rows: Sequence[Row]) -> None:
    """Write the card.

    Args:
        path: of the README.md.
        name: of the dataset.
        form: lerobot or rlds.
        rows: of the staging folder, one an episode, see layout.noted.
    """
    layout = rows[0]["layout"]
    cameras = ", ".join(f"{camera} {size[1]} x {size[0]}" for camera, size in layout["cameras"].items())
    facts = {
        "Episodes": len(rows),
        "Steps": sum(row["steps"] for row in rows),
        "Control rate": f"{layout['fps']} Hz",
        "Cameras": cameras,
        "Robots": _counted(row["robot"] for row in rows),
        "Outcomes": _counted(row["outcome"] for row in rows),
        "Labelled by": _counted(row["labelled_by"] for row in rows if row["labelled_by"]) or "nobody",
    }
    table = "\n".join(f"| {fact} | {table_cell(value)} |" for fact, value in facts.items())
    tasks = _listed(row["instruction"] for row in rows)
    versions = _listed(version for row in rows for version in row["versions"] if version)
    path.write_text(
        f"---\npretty_name: {json.dumps(name)}\ntask_categories:\n- robotics\n{_FRONT[form]}---\n\n# {name}\n\n"
        f"Recorded with Gymnast, written by `gymnast episodes export --format {form}`.\n\n"
        f"| | |\n|---|---|\n{table}\n\n## Tasks\n\n{tasks}\n## Policies that acted\n\n{versions}\n## Conventions\n\n"
        f"{_CONVENTIONS}\n## Loading\n\n```python\n{_LOADED[form].format(name=name)}\n```\n",
        encoding="utf-8",
    )


_CONVENTIONS = """\
- An action is what was commanded between its observation and the next one, after the command gate: seven numbers, dx dy
  dz [m], droll dpitch dyaw [rad], deltas on the previous target in the base frame, and the gripper (0 closed, 1 open).
- The state is the end effector's x y z [m], roll pitch yaw [rad, 0 where the gripper points down], and the gripper.
- An episode of N actions has N+1 observations. The action beside the last one moves nothing and holds the gripper.
- The reward is 1 at the last observation of an episode labelled a success, else 0: unlabelled is no failure.
"""


def _counted(values: Iterable[str]) -> str:
    return ", ".join(f"{value} {count}" for value, count in Counter(values).most_common(_MOST))


def _listed(values: Iterable[str]) -> str:
    found = Counter(values).most_common()
    lines = [f"- {table_cell(value)} ({count})\n" for value, count in found[:_MOST]]
    return (
        "".join([*lines, *([f"- and {len(found) - _MOST} more\n"] if len(found) > _MOST else [])]) or "- none known\n"
    )
