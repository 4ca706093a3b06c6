"""Collections of episodes of equal length: what to record, and the one .npz that keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gymnast_core.types import Episode, Outcome


@dataclass(frozen=True)
class Share:
    """A share of the collection.

    Attributes:
        kind: of driver, see gymnast_ros.sim.drivers.
        task: name of a task.
        seeds: start states.
        policy: checkpoint folder for the kinds that need one.
    """

    kind: str
    task: str
    seeds: tuple[int, ...]
    policy: Path | None = None


def save_episodes(path: Path, episodes: Sequence[Episode]) -> None:
    """Write episodes of equal length and one camera to an .npz, atomically."""
    (camera,) = episodes[0].images
    header = [
        {
            "episode_id": e.episode_id,
            "instruction": e.instruction,
            "outcome": e.outcome.value,
            "labelled_by": e.labelled_by,
            "policy_versions": list(e.policy_versions),
            "metadata": dict(e.metadata),
        }
        for e in episodes
    ]
    staging = path.with_suffix(".partial.npz")
    staging.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        staging,
        header=np.frombuffer(json.dumps({"camera": camera, "episodes": header}).encode(), np.uint8),
        frames=np.stack([e.images[camera] for e in episodes]),
        proprio=np.stack([e.proprio_TP for e in episodes]),
        actions=np.stack([e.actions_TA for e in episodes]),
        time_ns=np.stack([e.time_ns_T for e in episodes]),
    )
    staging.replace(path)


def load_episodes(path: Path) -> list[Episode]:
    """Read what save_episodes wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays: Mapping[str, np.ndarray] = {name: file[name] for name in file.files}
    header = json.loads(arrays["header"].tobytes())
    return [
        Episode(
            images={header["camera"]: arrays["frames"][n]},
            proprio_TP=arrays["proprio"][n],
            actions_TA=arrays["actions"][n],
            time_ns_T=arrays["time_ns"][n],
            **{**fields, "outcome": Outcome(fields["outcome"])},
        )
        for n, fields in enumerate(header["episodes"])
    ]
