"""Which scene does a robot take an image for? `python -m benchmarks.scene_recognition`: the simulator's scenes.

Every scene gets an adapter, one after the other, as an operator would: learned from first images of one task recorded
there, against those of the standard scene and of the scenes before it. Then fresh first images of all four tasks are
shown, of every scene, and of scenes that nothing was recorded in: random looks, and each scene with its own adapter and
images left out.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gymnast_core.episodes.writer import JPEG_QUALITY, encode_jpeg
from gymnast_core.evaluation.recognition import SceneRecogniser
from gymnast_core.evaluation.scene import Fingerprint
from gymnast_core.pictures import decode_jpeg
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.scene import NOVEL_SCENES, STANDARD, SceneConfig
from gymnast_ros.sim.tasks import TASKS

BASE = "the base"
Images = Mapping[str, Sequence[Fingerprint]]


def first_images(scene: SceneConfig, seeds: range, tasks: Sequence[str]) -> list[Fingerprint]:
    """Fingerprints of start states as a recording has them."""
    env = SimEnv(scene)
    found = []
    for task in tasks:
        for seed in seeds:
            frame_HWC = next(iter(env.reset(TASKS[task].instruction, seed=seed).images.values()))[0]
            found.append(Fingerprint.of(decode_jpeg(encode_jpeg(np.asarray(frame_HWC), JPEG_QUALITY))))
    env.close()
    return found


def learned(recorded: Images, without: str = "") -> dict[str, SceneRecogniser]:
    """Recognisers of every scene but the standard one, each learned against those before it."""
    found, seen = {}, list(recorded[STANDARD.name])
    for name, images in recorded.items():
        if name not in (STANDARD.name, without):
            found[name] = SceneRecogniser.fitted(images, seen)
            seen += images
    return found


def driver(recognisers: Mapping[str, SceneRecogniser], seen: Fingerprint) -> str:
    """Whose adapter drives, as gymnast_ros.run.scene_policy decides."""
    name, margin = max(((name, one.margin(seen)) for name, one in recognisers.items()), key=lambda found: found[1])
    return name if margin > 0 else BASE


def random_looks(count: int, seed: int) -> list[SceneConfig]:
    """Scenes that nobody recorded: another table, light and camera each."""
    rng = np.random.default_rng(seed)
    return [
        SceneConfig(
            name=f"random-{number}", table_colour=tuple(rng.uniform(0.15, 0.75, 3)), light=float(rng.uniform(0.5, 1.2)),
            camera_shift_m=tuple(rng.normal(0.0, 0.02, 3)), distractors=int(rng.integers(0, 3)),
        )
        for number in range(count)
    ]  # fmt: skip


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return {settings, table, unknown, random, calibration} as JSON values; counts of images by who drives."""
    scenes = {scene.name: scene for scene in (STANDARD, *NOVEL_SCENES.values())}
    here, fresh = range(args.seed, args.seed + args.recorded), range(args.seed + 1000, args.seed + 1000 + args.starts)
    tasks = tuple(TASKS)[:4]
    recorded = {n: first_images(s, here, tasks if n == STANDARD.name else tasks[:1]) for n, s in scenes.items()}
    shown = {name: first_images(scene, fresh, tasks) for name, scene in scenes.items()}
    all_known = learned(recorded)
    table = {name: Counter(driver(all_known, one) for one in images) for name, images in shown.items()}
    unknown = {}
    for name in all_known:
        others = learned(recorded, without=name)
        unknown[name] = Counter(driver(others, one) for one in shown[name])
    looks = random_looks(args.random, args.seed)
    random = Counter(driver(all_known, one) for look in looks for one in first_images(look, fresh[:2], tasks))
    words = {name: one.calibration.words for name, one in all_known.items()}
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    return {"settings": settings, "table": table, "unknown": unknown, "random": random, "calibration": words}


def table_of(title: str, rows: Mapping[str, Counter[str]]) -> Table:
    """True scene down, whose adapter drives across."""
    table = Table(title=title)
    names = sorted({name for row in rows.values() for name in row})
    for column in ("shown", *names):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(str(row[column] or "") for column in names))
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorded", type=int, default=25, help="first images that an adapter is kept with")
    parser.add_argument("--starts", type=int, default=25, help="fresh images per task and scene")
    parser.add_argument("--random", type=int, default=12, help="looks that nothing was recorded in")
    parser.add_argument("--seed", type=int, default=7_000_000)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    found, console = measure(args), Console()
    console.print(table_of("every scene has an adapter", found["table"]))
    console.print(table_of("the scene shown has none and was never recorded", found["unknown"]))
    console.print("random looks:", dict(found["random"]))
    console.print(found["calibration"])
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
