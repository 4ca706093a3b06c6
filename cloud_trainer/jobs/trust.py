"""The trust check that an operator sees: the very one that training makes again, of the same episodes."""

from __future__ import annotations

import math
from typing import Any

from cloud_trainer.jobs.calibrated import calibrated_bounds
from cloud_trainer.jobs.gates import require_gates
from cloud_trainer.jobs.job import Job, load_episodes
from cloud_trainer.jobs.practice import practice_judge
from cloud_trainer.jobs.scene_trust import check_scene, divide, scene_gates
from cloud_trainer.jobs.settings import PipelineConfig
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import NotTrustedError


def trust(job: Job) -> dict[str, Any]:
    """Dream the recorded episodes of a scene and measure: what training will ask again, of the same episodes.

    Args:
        job: spec as of an adapt job, with episodes: ids of those that may be looked at.

    Returns:
        {ok, reason (why not; empty when ok), figures, checked (ids of what was looked at)}; a job that does not check
        (config.check false) is ok in any case, with the reason.

    Raises:
        ConfigError: no episode of this task in this scene, or an unknown setting.
    """
    config = PipelineConfig.of(job.spec.get("config", {}))
    home = load_world(job.checkpoints["world_model"], config.dream)
    episodes = load_episodes(job, len(job.episodes), home.image_size)
    chosen = divide(episodes, **{name: str(job.spec.get(name, "")) for name in ("robot", "scene", "instruction")})
    judge = practice_judge(config, job.checkpoints["judge"], job.folder)
    gates = scene_gates(config, calibrated_bounds(job.checkpoints["world_model"], "adapt"))
    _, passed = check_scene(home, judge, chosen, gates, job.folder, seed=job.seed, progress=job.progress)
    measured = passed.report.summary().items()
    figures: dict[str, Any] = {
        name: value for name, value in measured if isinstance(value, (int, float)) and math.isfinite(value)
    }
    figures |= {
        "real_episodes_here": len(chosen.mine), "judge": judge.version, "episodes_checked": len(chosen.checked),
    }  # fmt: skip
    figures |= {"overridden": dict(passed.overridden)} if passed.overridden else {}
    found = {"ok": True, "reason": "", "figures": figures, "checked": chosen.checked}
    try:
        require_gates(passed, gates)
    except NotTrustedError as refusal:
        found |= {"ok": not config.check, "reason": f"{refusal}"}
    return found
