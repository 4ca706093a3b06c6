"""Every parameter of the rollout node, with its meaning and range."""

from __future__ import annotations

from gymnast_core.episodes.messages import MAX_ANNOTATION_CHARACTERS
from gymnast_core.evaluation.purpose import PURPOSES
from gymnast_core.policies.chunking import ChunkingConfig
from gymnast_ros.graph import CHUNKING, REAL_TIME
from gymnast_ros.nodes.runtime import Settings
from gymnast_ros.run.operator import LABELS


def declare(settings: Settings) -> None:
    """Every parameter of the node, with its meaning."""
    add = settings.declare
    add("folder", "runs/robot", "spool/, store/ and results/ live here", read_only=True)
    add("robot_name", "sim-0", "name in recordings and at the trainer", read_only=True)
    add("bridge_expected", False, "whether this robot has a bridge node; clients wait for it", read_only=True)
    add("policy", "", "checkpoint folder used while the store has no current one; or remote:HOST:PORT, always")
    add("identity", "", "folder with cert.pem, key.pem, ca.pem, for a remote policy")
    add("insecure", False, "a remote policy without TLS; tests on one machine")
    add("remote_deadline_s", 0.5, "longest wait for a remote policy's answer", low=0.05, high=60.0)
    add("device", "auto", "where a large policy runs: auto takes a GPU if there is one", read_only=True)
    declare_max_latency(settings)
    add("chunking", CHUNKING[0], "wait for every chunk, or compute the next one while this one executes",
        choices=CHUNKING)  # fmt: skip
    add("chunking_horizon", 2, "real_time: ticks of a chunk before the next inference starts", low=1, high=100)
    add("chunking_delay", 1, "real_time: ticks an inference usually takes", low=0, high=100)
    add(
        "checkpoint",
        "",
        "run_episode: id in the store, folder, 'replay:FILE' or 'remote:HOST:PORT'; empty is the one in force",
    )
    add("checkpoints", [], "evaluate: ids or folders compared from the same starts; empty is the one in force alone")
    add("instruction", "lift the red cube", "run_episode: what to do, or a task's name")
    add("tasks", [], "evaluate: instructions or task names")
    add("seed", 0, "run_episode: start state", low=0, high=2**53)
    add("seed_start", 2_000_000, "evaluate: first start state", low=0, high=2**53)
    add("seed_count", 25, "evaluate: start states per task", low=1, high=1_000_000)
    add("scene", "standard", "look of the simulated world")
    add("temperature_seed", -1, "negative is greedy; else seeds the sampling", low=-1, high=2**53)
    add("record", True, "write episodes to the spool")
    add("purpose", "collect", "rides in the recordings' metadata; says whether they may be learned from",
        choices=PURPOSES)  # fmt: skip
    add("episode_ids", "", "evaluate: first part of the recordings' ids, task and seed follow; empty gives fresh ones")
    add("auto_label", True, "let the simulator's state play the operator")
    add("label_timeout_s", 0.0, "how long to wait for rollout/label after an episode", low=0.0, high=3600.0)
    add("label", "success", "for rollout/label", choices=LABELS)
    add("labelled_by", "operator", "who labels and annotates")
    add("annotation", "mark", "annotate: words or tags noted at that moment of the episode", check=_blank_error)
    add("step_timeout_s", 5.0, "longest wait for an observation", low=0.2, high=600.0)
    add("reset_timeout_s", 60.0, "longest reset of the arm", low=1.0, high=600.0)


def declare_max_latency(settings: Settings) -> None:
    """How slow a checkpoint may be that runs on this robot; of the rollout node, and of the bridge that checks it."""
    settings.declare(
        "max_latency_s", 0.0, "longest typical call of a checkpoint; 0 is one control step per action of a chunk",
        low=0.0, high=600.0, read_only=True,
    )  # fmt: skip


def chunking(settings: Settings) -> ChunkingConfig | None:
    """How chunks follow each other; None waits for each."""
    if settings["chunking"] != REAL_TIME:
        return None
    return ChunkingConfig(settings["chunking_horizon"], settings["chunking_delay"])


def _blank_error(value: str) -> str:
    return "" if 0 < len(value.strip()) <= MAX_ANNOTATION_CHARACTERS else "needs 1 to 2000 characters"
