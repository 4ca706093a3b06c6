"""Options every test folder shares."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --golden, the folder of parity tensors."""
    parser.addoption(
        "--golden",
        default=str(Path(__file__).parent / "tests" / "data"),
        help="folder in the layout of tests/data (worldgym_tiny/, openvla_tiny/, grpo/, ...) to check parity against",
    )


@pytest.fixture(scope="session")
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """The folder named by --golden."""
    return Path(request.config.getoption("--golden"))
