"""Options every test folder shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

LONGEST_FIRST = (
    "tests/journeys/test_readme.py",
    "tests/cli/test_operators_day.py",
    "tests/journeys/test_weights_in_force.py",
    "tests/faults/",
    "tests/journeys/",
    "tests/cloud/test_fsdp.py",
    "tests/test_",
    "examples/",
)
"""Files, by how their path begins, that a run in several processes begins with: none of them is left for its end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --golden, the folder of parity tensors."""
    parser.addoption(
        "--golden",
        default=str(Path(__file__).parent / "tests" / "data"),
        help="folder in the layout of tests/data (worldgym_tiny/, openvla_tiny/, grpo/, ...) to check parity against",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put LONGEST_FIRST at the front; the others keep their order."""

    def turn(item: pytest.Item) -> int:
        fits = (number for number, path in enumerate(LONGEST_FIRST) if item.nodeid.startswith(path))
        return next(fits, len(LONGEST_FIRST))

    items.sort(key=turn)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show why a test needed another try (pytest --reruns): the tries that failed are printed nowhere else."""
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.write_sep("_", f"first failed: {report.nodeid} ({report.when})")
        terminalreporter.write_line("\n".join(report.longreprtext.splitlines()[-30:]))


@pytest.fixture(scope="session")
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """The folder named by --golden."""
    return Path(request.config.getoption("--golden"))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of the session's own, from the distribution's packages; skips where there is none."""
    from tests.postgres import PostgresMissingError, postgres_server

    try:
        with postgres_server() as url:
            yield url
    except PostgresMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    from tests.postgres import database_of_ones_own

    if request.param == "SQLite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    with database_of_ones_own(request.getfixturevalue("postgres_url")) as url:
        yield url
