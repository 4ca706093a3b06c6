"""One name, one meaning: a public class name stands once in all our packages."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("gymnast_core", "gymnast_client", "gymnast_ros", "cloud_trainer", "gymnast_cli")


def classes() -> dict[str, list[str]]:
    """Public class name -> files that define it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in (
        path
        for top in OURS
        for path in (ROOT / top).rglob("*.py")
        if "gymnast_core/wire/gymnast/" not in path.as_posix()
    ):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(path.relative_to(ROOT).as_posix())
    return found


def test_public_class_names_are_unique():
    assert {name: files for name, files in classes().items() if len(files) > 1} == {}, "rename one of each"
