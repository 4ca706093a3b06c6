"""What the catalogue costs when it is large, on SQLite and on a real PostgreSQL server: a part of `bridge.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.bridge_table import Table
from cloud_trainer.store.database import Database
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.store.sql_meta import SqlMetaStore
from tests.postgres import PostgresMissingError, postgres_server

_YOUNG = 10
_PROBES = 100


def measure_catalogue(table: Table) -> None:
    """What one more episode costs at the 10th and at the 100,000th; what questions cost then."""
    _measure_store(table, "SQLite", f"sqlite:///{table.folder / 'catalogue.db'}")
    try:
        with postgres_server(durable=True) as url:
            _measure_store(table, "PostgreSQL", url)
    except PostgresMissingError as missing:
        table.head(f"  PostgreSQL left out: {missing}")


def _measure_store(table: Table, name: str, url: str) -> None:
    total = max(int(100_000 * table.scale), 2000)
    database = Database(url)
    store = SqlMetaStore(database)
    store.add_episodes(_rows(0, _YOUNG))
    young = _seconds_per_episode(store, _YOUNG)
    for first in range(_YOUNG + _PROBES, total, 1000):
        store.add_episodes(_rows(first, min(1000, total - first)))
    late = _seconds_per_episode(store, total)
    table.add(
        f"adding an episode: the 10th over the last, {name}", young / late, 0.8, note=f"{late * 1e3:.2f} ms at {total}"
    )
    questions: dict[str, Callable[[], object]] = {
        "the page at the end of the catalogue": lambda: store.episodes("default", after=total - 1000),
        "a robot's last page": lambda: store.episodes("default", robot="wx-3", after=total - 20_000),
    }
    for question, ask in questions.items():
        started = time.perf_counter()
        ask()
        table.add(f"asking for {question}, {name}", time.perf_counter() - started, 1.0, unit="s")
    database.close()


def _rows(first: int, count: int) -> list[EpisodeRow]:
    return [
        EpisodeRow(0, "default", f"ep-{number}", f"wx-{number % 16}", f"{number:064x}", 1_000_000, number,
                   instruction=f"task {number % 40}", metadata={"task": "lift", "seed": number})
        for number in range(first, first + count)
    ]  # fmt: skip


def _seconds_per_episode(store: SqlMetaStore, first: int) -> float:
    """The median over some episodes, each in a durable transaction of its own."""

    def once(number: int) -> float:
        add = partial(store.add_episodes, _rows(number, 1))
        started = time.perf_counter()
        add()
        return time.perf_counter() - started

    return float(np.median([once(first + number) for number in range(_PROBES)]))
