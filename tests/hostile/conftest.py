"""A running robot for those who attack it; its fixtures are the ROS tests' own."""

from __future__ import annotations

from tests.ros.conftest import client, context, domain_id, graph, keyring, replay  # noqa: F401 - fixtures
