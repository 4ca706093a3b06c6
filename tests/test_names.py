"""One name, one meaning: a public class name stands once in all our packages."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("gymnast_core", "gymnast_client", "gymnast_ros", "cloud_trainer", "gymnast_cli")
TWICE = {  # to be renamed
    "Asked", "Verdict",
}  # fmt: skip


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
    twice = {name: files for name, files in classes().items() if len(files) > 1}
    assert {name: files for name, files in twice.items() if name not in TWICE} == {}, "rename one of each"
    assert set(twice) >= TWICE, f"unique now, drop them from TWICE: {sorted(TWICE - set(twice))}"
