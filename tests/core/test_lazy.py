"""Packages whose parts come when they are asked for: everything they offer is there, and nothing else comes along."""

import importlib
import subprocess
import sys

import pytest

PACKAGES = (
    "gymnast_client", "gymnast_core.episodes", "gymnast_core.jobs", "gymnast_ros.shadow", "gymnast_ros.uplink",
    "cloud_trainer.app", "cloud_trainer.service",
)  # fmt: skip


@pytest.mark.parametrize("name", PACKAGES)
def test_everything_that_is_offered_is_there_and_is_no_module(name: str):
    package = importlib.import_module(name)
    offered = {entry: getattr(package, entry) for entry in package.__all__}
    assert [entry for entry, value in offered.items() if type(value) is type(sys)] == []
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'no_such_part'"):
        getattr(package, "no_such_part")  # noqa: B009  # a name it lacks


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("cloud_trainer.app.people", "sqlalchemy|fastapi|mcap|cv2"),
        ("cloud_trainer.app.policy_process", "sqlalchemy|fastapi|numpy|grpc"),
        ("gymnast_ros.run.policy_child", "grpc|gymnast_client|torch"),
        ("gymnast_client", "grpc|pydantic|numpy"),
    ],
)
def test_a_process_starts_with_what_it_needs(imported: str, absent: str):
    program = f"import {imported}, sys; print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-c", program], text=True).split())
    assert loaded & set(absent.split("|")) == set()
