"""Runs where TensorFlow Datasets is: reads a dataset of ours, and writes one in the layout of bridge_orig. Prints JSON.

python tfds_reader.py FOLDER OUT
"""

import json
import sys
from importlib import metadata

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

folder, out = sys.argv[1:]


class BridgeOrig(tfds.core.GeneratorBasedBuilder):
    """What OpenVLA trains on, with dtypes that others have used."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        tensor = tfds.features.Tensor
        picture = tfds.features.Image(shape=(32, 40, 3), encoding_format="jpeg")
        seen = {
            "image_0": picture,
            "image_1": picture,
            "state": tensor(shape=(7,), dtype=tf.bfloat16, encoding="bytes"),
        }
        seen["exact"] = tensor(shape=(7,), dtype=np.float64, encoding="zlib")
        step = {
            "observation": seen,
            "action": tensor(shape=(7,), dtype=np.float64),
            "language_instruction": tfds.features.Text(),
            "is_first": np.bool_,
            "is_last": np.bool_,
        }
        features = {"steps": tfds.features.Dataset(step), "episode_metadata": {"file_path": tfds.features.Text()}}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(2):
            rows = np.linspace(0.0, 0.03, 7 * (5 + number)).reshape(-1, 7)
            steps = [
                {
                    "observation": {
                        "image_0": np.full((32, 40, 3), 40 * step, np.uint8),
                        "image_1": np.full((32, 40, 3), 200 - 40 * step, np.uint8),
                        "state": row.astype(tf.bfloat16.as_numpy_dtype),
                        "exact": row / 3,
                    },
                    "action": row,
                    "language_instruction": "ставь горшок",
                    "is_first": step == 0,
                    "is_last": step == len(rows) - 1,
                }
                for step, row in enumerate(rows)
            ]
            yield number, {"steps": steps, "episode_metadata": {"file_path": f"/bridge/{number}"}}


def plain(value):
    """JSON of a tensor's numpy value."""
    return value.decode() if isinstance(value, bytes) else np.asarray(value).tolist()


dataset = tfds.builder_from_directory(f"{folder}/1.0.0").as_dataset(split="train")
episodes = []
for episode in dataset:
    steps = list(tfds.as_numpy(episode["steps"]))
    seen = [step["observation"] for step in steps]
    episodes.append(
        {
            "about": {name: plain(value.numpy()) for name, value in episode["episode_metadata"].items()},
            "cameras": {
                name: [int(picture[name].astype(np.int64).sum()) for picture in seen]
                for name in seen[0]
                if seen[0][name].ndim == 3
            },
            "joint_position": [plain(one["joint_position"]) for one in seen],
            "state": [plain(one["state"]) for one in seen],
            **{name: [plain(step[name]) for step in steps] for name in steps[0] if name != "observation"},
        }
    )
BridgeOrig(data_dir=out).download_and_prepare()
versions = {name: metadata.version(name) for name in ("tensorflow-datasets", "tensorflow-cpu")}
sys.stdout.write(json.dumps({"versions": versions, "episodes": episodes}))
