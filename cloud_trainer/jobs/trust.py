"""The trust check that an operator sees: the very one that training makes again, of the same episodes."""

from __future__ import annotations

import math
from typing import Any

from cloud_trainer.jobs.calibrated import calibrated_bounds
from cloud_trainer.jobs.gates import require_gates
from cloud_trainer.jobs.job import Job, load_episodes
from cloud_trainer.jobs.practice import practice_judge
from cloud_trainer.jobs.scene_trust import check_scene, divide, scene_gates
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import NotTrustedError
from gymnast_core.jobs.scene import TrustResult, TrustSpec


def trust(job: Job[TrustSpec]) -> TrustResult:
    """Dream the recorded episodes of a scene and measure: what training will ask again, of the same episodes.

    Returns:
        What was found; a job that does not check (config.check false) is ok in any case, with the reason.

    Raises:
        ConfigError: no episode of this task in this scene.
    """
    spec, config = job.spec, job.spec.config
    home = load_world(job.checkpoints["world_model"], config.dream)
    episodes = load_episodes(job, len(job.episodes), home.image_size)
    chosen = divide(episodes, robot=spec.robot, scene=spec.scene, instruction=spec.instruction)
    judge = practice_judge(config, job.checkpoints["judge"], job.folder)
    gates = scene_gates(config, calibrated_bounds(job.checkpoints["world_model"], "adapt"))
    _, passed = check_scene(home, judge, chosen, gates, job.folder, seed=spec.seed, progress=job.progress)
    measured = passed.report.summary().items()
    figures: dict[str, Any] = {
        name: value for name, value in measured if isinstance(value, (int, float)) and math.isfinite(value)
    }
    figures |= {
        "real_episodes_here": len(chosen.mine), "judge": judge.version, "episodes_checked": len(chosen.checked),
    }  # fmt: skip
    figures |= {"overridden": dict(passed.overridden)} if passed.overridden else {}
    ok, reason = True, ""
    try:
        require_gates(passed, gates)
    except NotTrustedError as refusal:
        ok, reason = not config.check, f"{refusal}"
    return TrustResult(ok=ok, reason=reason, figures=figures, checked=tuple(chosen.checked))
