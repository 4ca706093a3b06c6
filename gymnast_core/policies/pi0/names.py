"""Names of pi0's tensors in the files that openpi and LeRobot publish."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gymnast_core.errors import CheckpointError
from gymnast_core.policies.pi0.network import Pi0Network

_OURS = (
    ("vlm.vision_tower.", "paligemma_with_expert.paligemma.model.vision_tower.vision_model."),
    ("vlm.", "paligemma_with_expert.paligemma.model."),
    ("expert.", "paligemma_with_expert.gemma_expert.model."),
    ("embed_action_time.", ""),
)
EMBEDDING = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
TIED = "paligemma_with_expert.paligemma.lm_head.weight"
"""The same numbers as EMBEDDING; a file has one of the two, or both."""
UNUSED = "paligemma_with_expert.gemma_expert.lm_head.weight"
"""The expert predicts no words: published with it, never looked at."""
LEROBOT = "model."
"""Before every name in LeRobot's files."""


def openpi_name(ours: str) -> str:
    """Return the name of one of the network's tensors in openpi's PyTorch files."""
    for prefix, theirs in _OURS:
        if ours.startswith(prefix):
            return theirs + ours.removeprefix(prefix)
    return ours


def is_pi05(names: Mapping[str, object]) -> bool:
    """Whether a file's tensors are a pi0.5's: it has an MLP for the time alone."""
    return any(name.removeprefix(LEROBOT).startswith("time_mlp_in.") for name in names)


def renamed(network: Pi0Network, tensors: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """Return a file's tensors under the network's names.

    Raises:
        CheckpointError: any is missing, unexpected or of another shape; the message names every one as in the file.
    """
    prefixed = bool(tensors) and all(name.startswith(LEROBOT) for name in tensors)
    found = {name.removeprefix(LEROBOT) if prefixed else name: tensor for name, tensor in tensors.items()}
    found.pop(UNUSED, None)
    tied = found.pop(TIED, None)
    if tied is not None and not torch.equal(found.setdefault(EMBEDDING, tied), tied):
        raise CheckpointError(f"{where}: {TIED} and {EMBEDDING} differ; one of them was never trained")
    wanted = {openpi_name(name): (name, tuple(tensor.shape)) for name, tensor in network.state_dict().items()}
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    shared = sorted(wanted.keys() & found.keys())
    wrong = [
        f"{n} {tuple(found[n].shape)}, not {wanted[n][1]}" for n in shared if tuple(found[n].shape) != wanted[n][1]
    ]
    if missing or unexpected or wrong:
        raise CheckpointError(
            f"{where}: tensors do not fit a {network.config.variant} of these sizes: {len(missing)} missing {missing}, "
            f"{len(unexpected)} unexpected {unexpected}, {len(wrong)} of another shape {wrong}; fetch the folder again"
        )
    return {wanted[name][0]: tensor for name, tensor in found.items()}
