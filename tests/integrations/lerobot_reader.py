"""Runs in LeRobot's own environment: loads a dataset, reads every frame, computes its statistics again. Prints JSON.

python lerobot_reader.py FOLDER
"""

import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
from lerobot.datasets.compute_stats import aggregate_stats, get_feature_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.scripts.lerobot_dataset_viz import visualize_dataset

folder = Path(sys.argv[1])
dataset = LeRobotDataset("lab/exported", root=folder)
frames = [dataset[index] for index in range(len(dataset))]
numeric = [key for key, feature in dataset.features.items() if feature["dtype"] not in ("video", "image", "string")]
cameras = dataset.meta.camera_keys


def statistics(rows: list) -> dict:
    """What LeRobot computes of the frames of one episode."""
    found = {}
    for key in numeric:
        values = np.stack([np.atleast_1d(row[key].numpy()) for row in rows])
        found[key] = get_feature_stats(values, axis=0, keepdims=False)
    for key in cameras:
        pixels = np.stack([(row[key].numpy() * 255).round().astype(np.float64) for row in rows])
        stats = get_feature_stats(pixels, axis=(0, 2, 3), keepdims=True)
        found[key] = {n: v if n == "count" else np.squeeze(v / 255.0, axis=0) for n, v in stats.items()}
    return found


episodes = [[row for row in frames if int(row["episode_index"]) == number] for number in range(dataset.num_episodes)]
theirs = aggregate_stats([statistics(rows) for rows in episodes])
apart = {}
for key, stats in theirs.items():
    for name, value in stats.items():
        ours = np.asarray(dataset.meta.stats[key][name], np.float64)
        scale = max(1.0, float(np.abs(ours).max()))
        apart[f"{key} {name}"] = float(np.abs(ours - np.asarray(value, np.float64).reshape(ours.shape)).max()) / scale
saved = visualize_dataset(dataset, 0, save=True, output_dir=folder.parent / "viz") if "--viz" in sys.argv else None
sys.stdout.write(
    json.dumps(
        {
            "lerobot": metadata.version("lerobot"),
            "episodes": dataset.num_episodes,
            "frames": len(dataset),
            "fps": dataset.fps,
            "tasks": [row["task"] for row in (rows[0] for rows in episodes)],
            "shapes": {key: list(frames[0][key].shape) for key in cameras},
            "action": [row["action"].tolist() for row in frames],
            "state": [row["observation.state"].tolist() for row in frames],
            "pixels": {key: [float(row[key].mean()) for row in frames] for key in cameras},
            "apart": apart,
            "viz": str(saved) if saved else "",
        }
    )
)
