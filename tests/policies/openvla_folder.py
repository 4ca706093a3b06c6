"""A tiny random OpenVLA folder in the published layout, written from nothing."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gymnast_core.policies.openvla.config import OpenVLAConfig, TextConfig, TowerConfig
from gymnast_core.policies.openvla.model import L1Head, OpenVLANetwork, ProprioProjector
from gymnast_core.types import Observation

FIRST = TowerConfig(image_size=28, embed_dim=16, depth=2, num_heads=2, mlp_hidden=32)
SECOND = TowerConfig(
    image_size=28,
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_hidden=32,
    register_tokens=0,
    class_token=False,
    layer_scale=False,
    attention_pool=True,
)
TEXT = TextConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4
)
WORDS = [
    *("In", ":", "What", "action", "should", "the", "robot", "take", "to", "?", "Out"),
    *("put", "cube", "on", "plate", "open", "drawer", "close", "a", "red"),
]
STATISTICS = {
    "action": {"q01": [-0.03] * 6 + [0.0], "q99": [0.03] * 6 + [1.0], "mask": [True] * 6 + [False]},
    "proprio": {"q01": [-1.0] * 7, "q99": [1.0] * 7},
}


def random_network(seed: int, **changes) -> OpenVLANetwork:
    torch.manual_seed(seed)
    network = OpenVLANetwork(OpenVLAConfig(towers=(FIRST, SECOND), text=TEXT, **changes))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    return network.eval()


def write_tokenizer(path: Path) -> None:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {word: 10 + i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(path))


def write_folder(folder: Path, *, seed: int = 0, head: str = "discrete", proprio: bool = False) -> OpenVLANetwork:
    """Write the folder and return the network whose tensors it holds."""
    folder.mkdir(parents=True)
    network = random_network(seed)
    tensors = network.state_dict()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: tensors[name].contiguous() for name in members}, folder / shard)
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    settings = {
        "architectures": ["OpenVLAForActionPrediction"],
        "auto_map": {"AutoModelForVision2Seq": "modeling_prismatic.OpenVLAForActionPrediction"},
        "vision_towers": [asdict(FIRST), asdict(SECOND)],
        "text_config": asdict(TEXT) | {"model_type": "llama", "torch_dtype": "bfloat16"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "modeling_prismatic.py").write_text("raise SystemExit('a checkpoint must never be executed')\n")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"means": [[0.1, 0.2, 0.3], [0.5] * 3], "stds": [[0.2] * 3, [0.5] * 3]})
    )
    (folder / "dataset_statistics.json").write_text(json.dumps({"bridge_dataset": STATISTICS, "other": STATISTICS}))
    write_tokenizer(folder / "tokenizer.json")
    torch.manual_seed(seed + 1)
    if head == "l1":
        write_part(folder / "action_head--5000_checkpoint.safetensors", L1Head(TEXT.hidden_size))
    if proprio:
        write_part(folder / "proprio_projector--5000_checkpoint.safetensors", ProprioProjector(TEXT.hidden_size))
    return network


def write_part(path: Path, part: torch.nn.Module) -> None:
    """As data-parallel training names them: module.*"""
    save_file({f"module.{name}": tensor.contiguous() for name, tensor in part.state_dict().items()}, path)


def observation(rows: int, seed: int = 0, size: int = 32) -> Observation:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    return Observation({"front": frames}, rng.normal(size=(rows, 7)).astype(np.float32), np.zeros(rows, np.int64))
