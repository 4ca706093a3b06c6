"""What journeys share: two hosts (tests/journeys/hosts.py), one pair a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.journeys.hosts import Hosts, NoHostsError, two_hosts


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Two machines, trainer.lab and robot.lab, joined by a good cable; the test skips where they cannot be had."""
    try:
        with two_hosts(tmp_path_factory.mktemp("hosts")) as made:
            yield made
    except NoHostsError as reason:
        pytest.skip(str(reason))
