"""Calls for a person on the robot's disk until the trainer has them, kept over restarts; any process raises them.

A page is a file of its own in pages/ of the robot's folder; its answer lies beside it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import GymnastError
from gymnast_core.json_values import JsonValue
from gymnast_core.paging import Acknowledgement, Page

LOG = logging.getLogger(__name__)


class PageOutbox:
    """A Pager (gymnast_core.paging) of one robot. Threads and processes may share its folder.

    Args:
        folder: of the robot.
        robot: its name.
    """

    def __init__(self, folder: Path, robot: str) -> None:
        self._folder, self._robot = folder / "pages", robot

    def page(self, kind: str, text: str, **detail: JsonValue) -> str:
        """See Pager."""
        page = Page(kind, self._robot, text, detail=dict(detail))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_durably(self._folder / f"{page.page_id}.json", json.dumps(asdict(page)).encode())
        except (OSError, GymnastError, TypeError, ValueError) as error:
            LOG.error("page_not_kept id=%s kind=%s text=%s error=%s", page.page_id, kind, text, error)
        return page.page_id

    def answer(self, page_id: str) -> Acknowledgement | None:
        """See Pager."""
        try:
            return Acknowledgement(**json.loads((self._folder / f"{page_id}.answer.json").read_bytes()))
        except (OSError, TypeError, ValueError):
            return None
