"""A terminal for every example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.installing import Terminal, install
from tests.ros.conftest import domain_id  # noqa: F401  (a fixture: a ROS domain that nobody else has)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every example, installed as a user installs it."""
    return install(tmp_path_factory.mktemp("examples"))


@pytest.fixture
def terminal(tmp_path: Path, domain_id: int, site: Path) -> Iterator[Terminal]:  # noqa: F811
    """A folder, a domain, and an end for all that was started."""
    opened = Terminal(tmp_path, domain_id, site)
    yield opened
    opened.close()
