"""What the examples' tests share: packages installed as a user installs them, and a terminal that finds them."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.journeys.hosts import GYMNAST, Started

EXAMPLES = Path(__file__).parent


class Terminal:
    """A user's terminal: a folder, a ROS domain, and the examples installed for it."""

    def __init__(self, folder: Path, domain: int, site: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ, "PYTHONPATH": str(site), "ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self.started: list[Started] = []

    def run(self, *words: str, code: int = 0) -> str:
        """Run a gymnast command to its end, which is this exit code; returns what it printed."""
        done = subprocess.run(
            [GYMNAST, *words], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def start(self, *words: str) -> Started:
        """Start a gymnast command that stays."""
        log = self.folder / f"{words[0]}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [GYMNAST, *words], cwd=self.folder, env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )
        self.started.append(Started(process, log))
        return self.started[-1]

    def close(self) -> None:
        """End what was started."""
        for started in reversed(self.started):
            started.stop()


def install(folder: Path) -> Path:
    """Leave behind what `pip install -e examples/NAME` does, without its seconds: a path, and the entry points.

    test_installed.py holds it against pip.
    """
    tomllib = importlib.import_module("tomllib")
    for pyproject in EXAMPLES.glob("*/pyproject.toml"):
        project = tomllib.loads(pyproject.read_text())["project"]
        shutil.copy(pyproject.parent / f"{pyproject.parent.name}.py", folder)
        info = folder / f"{project['name']}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        (info / "entry_points.txt").write_text(entry_points(project.get("entry-points", {})))
    return folder


def entry_points(groups: dict[str, dict[str, str]]) -> str:
    """As a distribution keeps them."""
    rows = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in of.items()) for group, of in groups.items()
    ]
    return "\n".join(rows)
