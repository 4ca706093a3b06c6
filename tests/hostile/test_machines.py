"""A training machine reports results that reach out of its job: folders of this trainer, other shapes, nothing."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cloud_trainer.flows.scene_engine import SceneEngine
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_client import Trainer
from gymnast_core.errors import GymnastError
from gymnast_core.evaluation.scene_book import SceneBook
from gymnast_core.wire.identity import Identity
from tests.hostile.lab import PATIENCE_S, Lab
from tests.hostile.registry import Tally, attack

REQUEST = {
    "robot": "r1", "policy": "policy-a", "world_model": "world_model-a", "judge": "judge-a", "instruction": "lift",
    "seed": 0, "scene": "bench", "config": {}, "by": "ana", "start": "e1", "checked": ["e1"],
}  # fmt: skip


def engine_of(lab: Lab) -> SceneEngine:
    """What `gymnast serve` makes for a tenant, without a robot."""
    row = EpisodeRow(0, "default", "e1", "r1", "0" * 64, 1, 1, "valid", "", "lift", "success", "", 5, "policy-a", {})
    lab.service.meta.add_episodes([row])
    return SceneEngine(
        connect=lambda name, errand: SimpleNamespace(), jobs=lab.service.jobs,  # type: ignore[arg-type, return-value]
        catalogue=lab.service.episodes_of("default"), shelf=SimpleNamespace(),  # type: ignore[arg-type]
        book=SceneBook(lab.folder / "scenes.json"), scene="bench", tenant="default",
        work=lab.folder / "trainer" / "jobs",
        begins=lambda *_: None,
    )  # fmt: skip


def previewed(lab: Lab, engine: SceneEngine, folder: Path, result: Any) -> tuple[list[str], str]:
    """Have a machine end a preview with a result; returns the films an operator would see, and how it ended."""
    folder.mkdir()
    (folder / "request.json").write_text(json.dumps(REQUEST))
    ends: list[str] = []

    def preview() -> None:
        try:
            engine.preview("policy-b", folder, lambda: "")
            ends.append("")
        except GymnastError as error:
            ends.append(str(error))

    waiting = threading.Thread(target=preview, daemon=True)
    waiting.start()
    machine = Identity.load(lab.identity("gpu-1", "trainer"))
    with Trainer(lab.service.address, machine) as trainer:
        while (job := trainer.jobs.claim(["preview"])) is None:
            assert waiting.is_alive(), ends
        trainer.jobs.report(job.job_id, state="done", result=result)
    waiting.join(PATIENCE_S)
    return sorted(path.name for path in folder.glob("*.webp")), ends[0] if ends else "it goes on"


@attack("results of a training machine that name files of the trainer, or are none")
def results(folder: Path, size: int) -> Tally:
    attempts = accepted = lost = 0
    with Lab(folder) as lab:
        engine = engine_of(lab)
        trap = folder / "trap"
        trap.mkdir()
        for film in ("old.webp", "new.webp"):
            (trap / film).symlink_to(folder / "trainer" / "ca" / "ca.key")
        found: tuple[Any, ...] = (
            {"folder": str(trap)}, {"folder": str(folder / "nowhere")}, {"folder": 7}, {"episodes": "x"}, {"more": []},
        )  # fmt: skip
        for number in range(size):
            films, why = previewed(lab, engine, folder / f"flow{number}", found[number % len(found)])
            attempts, accepted, lost = attempts + 1, accepted + bool(films), lost + ("job-" not in why)
    return Tally(attempts, accepted, lost)


def test_a_training_machine_shows_no_file_of_the_trainer_as_a_film(tmp_path):
    assert results(tmp_path, 5) == Tally(5, 0, 0)
