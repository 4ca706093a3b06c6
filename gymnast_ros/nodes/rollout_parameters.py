"""Every parameter of the rollout node, with its meaning and range."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from gymnast_core.episodes.messages import MAX_ANNOTATION_CHARACTERS
from gymnast_core.evaluation.attempts import MOST_ATTEMPTS
from gymnast_core.evaluation.purpose import PURPOSES
from gymnast_core.sampling import MOST_TEMPERATURE
from gymnast_core.spec import RATES_HZ
from gymnast_ros.graph import CHUNKING
from gymnast_ros.nodes.request_parameters import declare_argument
from gymnast_ros.nodes.settings import NodeSettings, declare_robot
from gymnast_ros.run.codec import checked
from gymnast_ros.run.operator import LABELS
from gymnast_ros.run.policy_host import ANSWER_S
from gymnast_ros.run.requests import Annotate, Cancel, Evaluate, Label, Request, RunEpisode

EPISODE_ARGUMENTS = ("instruction", "seed", "scene", "checkpoint", "temperature_seed", "record", "purpose")
EVALUATE_ARGUMENTS = (
    "tasks", "seed_start", "seed_count", "checkpoints", "scene", "temperature_seed", "record", "purpose",
    "episode_ids",
)  # fmt: skip


def declare(settings: NodeSettings) -> None:
    """Every parameter of the node, with its meaning."""
    add, robot = settings.declare, declare_robot(settings)
    add("folder", "runs/robot", "spool/, store/ and results/ live here", read_only=True)
    add("robot_name", "sim-0", "name in recordings and at the trainer", read_only=True)
    add("bridge_expected", False, "whether this robot has a bridge node; clients wait for it", read_only=True)
    add(
        "policy",
        "",
        "checkpoint folder used while the store has no current one; or remote:HOST:PORT or "
        "openpi(s)://HOST:PORT, always",
        read_only=True,
    )
    add("openpi", "", "keys of a policy server at openpi(s)://: a style, or a YAML file", read_only=True)
    add("trainer", "", "host:port of the trainer whose judge looks at episodes; empty: none does", read_only=True)
    add("identity", "", "folder with cert.pem, key.pem, ca.pem, for a remote policy and the judge", read_only=True)
    add("insecure", False, "a remote policy and the judge without TLS; tests on one machine", read_only=True)
    add("remote_deadline_s", 0.5, "longest wait for a remote policy's answer", low=0.05, high=60.0)
    add("answer_s", ANSWER_S, "a policy on this robot that has not answered by then hangs", low=0.5, high=600.0)
    add("device", "auto", "where a large policy runs: auto takes a GPU if there is one", read_only=True)
    declare_max_latency(settings)
    add("chunking", CHUNKING[0], "wait for every chunk, or compute the next one while this one executes",
        choices=CHUNKING)  # fmt: skip
    add("chunking_horizon", 2, "real_time: ticks of a chunk before the next inference starts", low=1, high=100)
    add("chunking_delay", 1, "real_time: ticks an inference usually takes", low=0, high=100)
    add("policy_hz", robot.control_hz, "rate of the policy's actions; the arm's is a multiple of it",
        low=min(RATES_HZ), high=max(RATES_HZ),
        check=lambda value: "" if value in RATES_HZ else f"must be one of {list(RATES_HZ)}")  # fmt: skip
    argument = partial(declare_argument, settings)
    argument(RunEpisode, "checkpoint", "")
    argument(Evaluate, "checkpoints", [])
    argument(RunEpisode, "instruction", "lift the red cube")
    argument(Evaluate, "tasks", [])
    argument(RunEpisode, "seed", 0)
    argument(Evaluate, "seed_start", 2_000_000)
    argument(Evaluate, "seed_count", 25)
    argument(RunEpisode, "scene", "standard")
    argument(RunEpisode, "temperature_seed", -1)
    add("temperature", 0.0, "run_episode, evaluate: of the policy's sampling; 0 is its own", low=0.0,
        high=MOST_TEMPERATURE)  # fmt: skip
    argument(RunEpisode, "record", True)
    argument(RunEpisode, "purpose", "collect", choices=PURPOSES)
    argument(Evaluate, "episode_ids", "")
    add("retry_max", 0, "run_episode, evaluate: most attempts from one start; below 2: no second one", low=0,
        high=MOST_ATTEMPTS)  # fmt: skip
    add("retry_judge", "", "id of the judge whose failures are tried again; empty: whichever the trainer serves")
    add("judge_labels", False, "let the trainer's judge label what nobody else labels, and end what it saw succeed")
    add("judge_every", 10, "steps between the judge's looks at a running episode; 0 lets every one run to its end",
        low=0, high=10_000)  # fmt: skip
    add("auto_label", True, "let the simulator's state play the operator")
    add("label_timeout_s", 0.0, "how long to wait for rollout/label after an episode", low=0.0, high=3600.0)
    argument(Label, "label", "success", choices=LABELS)
    argument(Label, "labelled_by", "operator")
    argument(Annotate, "text", "mark", name="annotation", check=_blank_error)
    add("step_timeout_s", 5.0, "longest wait for an observation", low=0.2, high=600.0)
    add("reset_timeout_s", 60.0, "longest reset of the arm", low=1.0, high=600.0)


def declare_max_latency(settings: NodeSettings) -> None:
    """How slow a checkpoint may be that runs on this robot; of the rollout node, and of the bridge that checks it."""
    settings.declare(
        "max_latency_s", 0.0, "longest typical call of a checkpoint; 0 is one control step per action of a chunk",
        low=0.0, high=600.0, read_only=True,
    )  # fmt: skip


def requests_from(settings: NodeSettings) -> Mapping[str, Callable[[], Request]]:
    """Return service -> what makes its request of the node's parameters."""
    by = {"labelled_by": "labelled_by"}

    def made(kind: type[Request], named: Mapping[str, str], **fixed: object) -> Callable[[], Request]:
        return lambda: checked(kind, {**{field: settings[name] for field, name in named.items()}, **fixed})

    def retried(kind: type[Request], names: tuple[str, ...]) -> Callable[[], Request]:
        def make() -> Request:
            most = settings["retry_max"]
            retry = {"max": most, "judge": settings["retry_judge"]} if most >= 2 else None
            return made(kind, _same(names), retry=retry, temperature=settings["temperature"] or None)()

        return make

    labels = {"label_success": "success", "label_failure": "failure", "discard": "discard"}
    return {
        "run_episode": retried(RunEpisode, EPISODE_ARGUMENTS),
        "evaluate": retried(Evaluate, EVALUATE_ARGUMENTS),
        "cancel": made(Cancel, {}),
        "label": made(Label, {"label": "label", **by}),
        "annotate": made(Annotate, {"text": "annotation", "by": "labelled_by"}),
        **{service: made(Label, by, label=label) for service, label in labels.items()},
    }


def _same(names: tuple[str, ...]) -> dict[str, str]:
    return {name: name for name in names}


def _blank_error(value: str) -> str:
    return "" if 0 < len(value.strip()) <= MAX_ANNOTATION_CHARACTERS else "needs 1 to 2000 characters"
