"""Which checkpoint each robot runs, was told to run, or turned down, and when it said so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cloud_trainer.service import Service
from cloud_trainer.service.words import RAN, REFUSED, RUNS, Word
from gymnast_core.authority import Who
from gymnast_core.records.signing import EVERY_ROBOT

MANDATES = ("promotion", "rollback")


class InForce:
    """Reads what the service knows; changes nothing.

    Args:
        service: whose robots.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._mandates: dict[str, list[dict[str, Any]]] = {}
        self._seen: dict[str, int] = {}

    def robots(self, who: Who) -> list[dict[str, Any]]:
        """Return one row a robot of the tenant, by name.

        Values: robot; runs, ran (a word each, or None); refused (words, newest last); ordered (the newest promotion or
        rollback for it: {checkpoint_id, kind, sequence, at_ns, reason, done}, or None); checking, probation_left (as
        of its last report); held.
        """
        words = self._service.words.of(who.tenant)
        reports = {report.robot: report for report in self._service.robots.of_tenant(who.tenant)}
        names, mandates = sorted({*reports, *(word.robot for word in words)}), self._mandates_of(who.tenant)
        said = {name: [word for word in words if word.robot == name] for name in names}
        return [_row(name, said[name], reports.get(name), mandates) for name in names]

    def of_checkpoint(self, who: Who, checkpoint_id: str) -> list[dict[str, Any]]:
        """Return the rows of robots that have to do with one checkpoint, each with what it says of that: state, at_ns.

        States: "runs", "refused", "ordered" (it has not said so yet), "ran", "holds".
        """
        rows = ((row, _state_of(row, checkpoint_id)) for row in self.robots(who))
        return [{**row, **state} for row, state in rows if state]

    def _mandates_of(self, tenant: str) -> list[dict[str, Any]]:
        """Promotions and rollbacks, oldest first; releases are only ever added."""
        found = self._mandates.setdefault(tenant, [])
        while page := self._service.meta.releases(tenant, self._seen.get(tenant, 0)):
            for row in page:
                release = json.loads(row.payload)
                if release["kind"] in MANDATES:
                    told = ("checkpoint_id", "kind", "sequence", "reason", "robots")
                    found.append({**{name: release[name] for name in told}, "at_ns": release["published_ns"]})
            self._seen[tenant] = page[-1].sequence
        return found


def _row(robot: str, words: Sequence[Word], report: Any, mandates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    said: Mapping[str, Any] = {} if report is None else report.status.get("weights", {})
    runs = next((word for word in words if word.word == RUNS), None)
    mandate = next((one for one in reversed(mandates) if _names(one, robot)), None)
    heard = max((word.release for word in words), default=0)
    done = mandate is not None and max(heard, int(said.get("obeyed", 0))) >= mandate["sequence"]
    return {
        "robot": robot, "runs": runs, "ran": next((word for word in words if word.word == RAN), None),
        "refused": [word for word in words if word.word == REFUSED],
        "ordered": None if mandate is None else {**mandate, "done": done},
        "checking": said.get("checking", ""), "probation_left": said.get("probation_left", 0),
        "held": list(said.get("held", ())), "age_s": None if report is None else report.age_s(),
    }  # fmt: skip


def _names(mandate: Mapping[str, Any], robot: str) -> bool:
    return EVERY_ROBOT in mandate["robots"] or robot in mandate["robots"]


def _state_of(row: Mapping[str, Any], checkpoint_id: str) -> dict[str, Any]:
    """What a robot says of a checkpoint; {} when they have nothing to do with each other."""
    runs, ran, ordered = row["runs"], row["ran"], row["ordered"]
    if ordered is not None and ordered["checkpoint_id"] == checkpoint_id and not ordered["done"]:
        return {"state": "ordered", "at_ns": ordered["at_ns"], "reason": ""}
    if runs is not None and runs.checkpoint_id == checkpoint_id:
        return {"state": RUNS, "at_ns": runs.at_ns, "reason": ""}
    for word in row["refused"]:
        if word.checkpoint_id == checkpoint_id:
            return {"state": REFUSED, "at_ns": word.at_ns, "reason": word.reason}
    if ran is not None and ran.checkpoint_id == checkpoint_id:
        return {"state": RAN, "at_ns": ran.at_ns, "reason": ""}
    return {"state": "holds", "at_ns": 0, "reason": ""} if checkpoint_id in row["held"] else {}
