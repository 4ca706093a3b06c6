"""pi0 against transformers' own class, and pi0.5 against numbers that openpi's PyTorch code gave.

pi0_tiny is section 5 of the golden set. pi05_tiny holds openpi @15a9616 (Apache-2.0) run with small sizes and random
weights, float32, CPU: weights.safetensors by its own names, the inputs, the squared error of its training pass at
`time`, and samples after 1, 4 and 10 steps from `noise`.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PI0ForConditionalGeneration

from gymnast_core.policies.pi0.config import GemmaSizes, Pi0Config, SiglipSizes
from gymnast_core.policies.pi0.layout import sizes_of
from gymnast_core.policies.pi0.names import renamed
from gymnast_core.policies.pi0.network import Pi0Network, Prefix, library_config

ATOL = 1e-5


def gemma(fields: dict) -> GemmaSizes:
    return GemmaSizes(
        fields["hidden_size"], fields["num_hidden_layers"], fields["intermediate_size"], fields["num_attention_heads"],
        fields["num_key_value_heads"], fields["head_dim"],
    )  # fmt: skip


def config_of(folder: Path) -> Pi0Config:
    """The golden config.json in our terms."""
    fields = json.loads((folder / "config.json").read_text())["pi0"]
    seen = fields["vlm_config"]["vision_config"]
    vision = SiglipSizes(
        seen["image_size"], seen["patch_size"], seen["hidden_size"], seen["num_hidden_layers"],
        seen["intermediate_size"], seen["num_attention_heads"],
    )  # fmt: skip
    return Pi0Config(
        vision=vision, language=gemma(fields["vlm_config"]["text_config"]), expert=gemma(fields["dit_config"]),
        vocabulary=fields["vlm_config"]["text_config"]["vocab_size"], chunk_length=fields["chunk_size"],
        action_width=fields["max_action_dim"], state_width=fields["max_state_dim"], steps=fields["num_inference_steps"],
    )  # fmt: skip


def filled(config: Pi0Config, tensors: dict[str, Tensor]) -> Pi0Network:
    network = Pi0Network.without_memory(config).eval()
    network.load_state_dict(renamed(network, tensors, where="golden"), assign=True)
    return network


@pytest.fixture(scope="module")
def folder(golden_dir: Path) -> Path:
    path = golden_dir / "pi0_tiny"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Pi0Network:
    return filled(config_of(folder), load_file(folder / "openpi_names.safetensors"))


@pytest.fixture(scope="module")
def inputs(folder: Path) -> dict[str, Tensor]:
    return dict(load_file(folder / "inputs.safetensors"))


@pytest.fixture(scope="module")
def golden(folder: Path) -> dict[str, Tensor]:
    return dict(load_file(folder / "outputs.safetensors"))


def looked(network: Pi0Network, inputs: dict[str, Tensor], *, cameras: Tensor | None = None) -> Prefix:
    """Inputs as the library takes them, image tokens before the text, as ours takes them."""
    images = inputs["camera_mask"].shape[1] * network.config.vision.patches
    ids, text = inputs["input_ids"][:, images:], inputs["attention_mask"][:, images:].bool()
    return network.look(inputs["pixel_values"], ids, text, cameras)


def noisy(inputs: dict[str, Tensor], time: str = "timestep") -> Tensor:
    t = inputs[time][:, None, None]
    return t * inputs["noise"] + (1 - t) * inputs["actions"]


def sampled(network: Pi0Network, prefix: Prefix, state: Tensor, x: Tensor, steps: int) -> Tensor:
    for index in range(steps):
        x = x - network.velocity(prefix, state, x, torch.full((len(x),), 1.0 - index / steps)) / steps
    return x


def close(ours: Tensor, theirs: Tensor, atol: float = ATOL) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


@torch.no_grad()
def test_velocity_and_loss(tiny, inputs, golden) -> None:
    velocity = tiny.velocity(looked(tiny, inputs), inputs["state"], noisy(inputs), inputs["timestep"])
    close(velocity, golden["all_cameras.velocity"])
    loss = (velocity - (inputs["noise"] - inputs["actions"])).square().mean()
    close(loss.reshape(1), golden["all_cameras.loss"])


@pytest.mark.parametrize("steps", [1, 4, 10])
@torch.no_grad()
def test_sampled_actions_of_one_prefix_for_all_steps(tiny, inputs, golden, steps) -> None:
    ours = sampled(tiny, looked(tiny, inputs), inputs["state"], inputs["noise"], steps)
    close(ours, golden[f"all_cameras.sampled_{steps}"])


@torch.no_grad()
def test_the_library_shows_the_first_camera_again_where_its_ids_still_name_an_absent_one(tiny, inputs, golden) -> None:
    again = dict(inputs, pixel_values=inputs["pixel_values"].clone())
    row, camera = (~inputs["camera_mask"].bool()).nonzero()[0].tolist()
    again["pixel_values"][row, camera] = inputs["pixel_values"][row, 0]
    velocity = tiny.velocity(looked(tiny, again), inputs["state"], noisy(inputs), inputs["timestep"])
    close(velocity, golden["one_missing.velocity"])


@torch.no_grad()
def test_an_absent_camera_is_masked_as_in_the_library_and_might_as_well_be_left_out(folder, tiny, inputs) -> None:
    if tuple(map(int, version("transformers").split(".")[:2])) < (5, 23):
        pytest.skip("the library for Python 3.10 cannot mask a camera that its ids name")
    library = PI0ForConditionalGeneration(library_config(tiny.config)).eval()
    library.load_state_dict(load_file(folder / "weights.safetensors"))
    present, patches = inputs["camera_mask"].bool(), tiny.config.vision.patches
    masked = inputs["attention_mask"].clone()
    masked[:, : present.shape[1] * patches] *= present.repeat_interleave(patches, 1)
    theirs = library(
        state=inputs["state"], noise=inputs["noise"], timestep=inputs["timestep"], actions=inputs["actions"],
        input_ids=inputs["input_ids"].index_fill(1, torch.arange(present.shape[1] * patches), tiny.config.vocabulary),
        pixel_values=inputs["pixel_values"], pixel_attention_mask=present, attention_mask=masked,
    ).logits  # fmt: skip
    velocity = tiny.velocity(looked(tiny, inputs, cameras=present), inputs["state"], noisy(inputs), inputs["timestep"])
    close(velocity, theirs)
    row, camera = (~present).nonzero()[0].tolist()
    others = torch.tensor([index for index in range(present.shape[1]) if index != camera])
    text = inputs["attention_mask"][row : row + 1, present.shape[1] * patches :].bool()
    ids = inputs["input_ids"][row : row + 1, present.shape[1] * patches :]
    without = tiny.look(inputs["pixel_values"][row : row + 1, others], ids, text)
    alone = tiny.velocity(
        without, *(tensor[row : row + 1] for tensor in (inputs["state"], noisy(inputs), inputs["timestep"]))
    )
    close(alone[0], velocity[row])


@pytest.fixture(scope="module")
def pi05(golden_dir: Path) -> tuple[Pi0Network, dict[str, Tensor]]:
    path = golden_dir / "pi05_tiny"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    fields = json.loads((path / "config.json").read_text())
    width = fields["action_dim"]
    config = Pi0Config(
        variant="pi05", chunk_length=fields["action_horizon"], action_width=width, state_width=width, **sizes_of(fields)
    )
    return filled(config, load_file(path / "weights.safetensors")), dict(load_file(path / "tensors.safetensors"))


@torch.no_grad()
def test_pi05_agrees_with_openpi(pi05) -> None:
    """To 1e-5 of the largest number: openpi's sinusoids of the time are float64, ours and the library's float32."""
    network, given = pi05
    prefix = network.look(given["pixels"], given["ids"], given["text"].bool(), given["camera_mask"].bool())
    velocity = network.velocity(prefix, given["state"], noisy(given, "time"), given["time"])
    error = (velocity - (given["noise"] - given["actions"])).square()
    close(error, given["squared_error"], atol=1e-5 * float(given["squared_error"].max()))
    for steps in (1, 4, 10):
        theirs = given[f"sampled_{steps}"]
        ours = sampled(network, prefix, given["state"], given["noise"], steps)
        close(ours, theirs, atol=2e-5 * float(theirs.abs().max()))


def test_pi05_has_the_time_in_its_norms_and_no_state_beside_its_actions(pi05) -> None:
    network, given = pi05
    with torch.no_grad():
        prefix = network.look(given["pixels"], given["ids"], given["text"].bool())
        early, late = (
            network.velocity(prefix, given["state"], given["noise"], torch.full((3,), time)) for time in (0.1, 0.9)
        )
        blind = network.velocity(prefix, torch.zeros_like(given["state"]), given["noise"], torch.full((3,), 0.1))
    assert (early - late).abs().max() > 0.1
    torch.testing.assert_close(early, blind, atol=0, rtol=0)
