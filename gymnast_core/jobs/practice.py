"""What several kinds of training jobs can be set to: dreams, starts, rollouts, reinforcement, refinement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from gymnast_core.errors import ConfigError
from gymnast_core.jobs.audit import OVERRIDABLE, SCENE_SUCCESS, AuditBounds, PracticeAudit, check_overrides
from gymnast_core.jobs.cluster import ClusterConfig, RolloutCluster
from gymnast_core.jobs.grpo import GroupSize, GrpoChoices, check_rollouts
from gymnast_core.jobs.judges import Endpoint, JudgeChoice
from gymnast_core.settings import (
    DEVICES,
    Count,
    CountOrZero,
    Device,
    Positive,
    Settings,
    SettingsT,
    Share,
    Texts,
)

MOST_NOVEL = 65_536
"""New beginnings of one job: as many as rollouts of one round; each holds a picture."""
MOST_EDITS = 256
MOST_RANK = 4096
"""Beyond the width of the largest layers that are adapted, an adapter is larger than what it adapts."""
Novel = Annotated[int, Field(ge=0, le=MOST_NOVEL)]
EDITS = ("change_light", "change_colour", "change_background", "paste_objects")
"""Scene edits at hand; others are named as package.module:Factory."""


Guidance = Annotated[float, Field(ge=0, le=100)]


class DreamConfig(Settings):
    """How a DiT dreams in a job; a compact model leaves nothing to choose but how long, and the rest is refused."""

    where: ClassVar[str] = "dream"

    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Denoising steps per frame; none is what the checkpoint was distilled to, else 10."""
    guidance: Guidance = 1.0
    """Classifier-free guidance on actions; 1 is none."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 40
    """Rows dreamt together; more are dreamt one batch after the other. The key-value cache of the 608 M model takes
    0.34 GB a row in bf16."""
    image_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Pixels a side, for a checkpoint whose manifest does not name what it was trained on."""
    episode_steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Control steps of a dream to practise in, in any world model; none is what most recorded episodes last. Episodes
    of any length are learned from."""
    device: Device = "auto"
    """Where it computes; the job's own device unless named."""


class Crop(Settings):
    """An object to paste into scenes, cut out of an episode's first frame."""

    where: ClassVar[str] = "novel.crops"

    episode: str
    """Id of the episode."""
    box: Annotated[tuple[int, int, int, int], Field(strict=False)]
    """Top, left, bottom, right in pixels."""
    name: str
    """What it is."""


class NovelEndpoint(Endpoint):
    """A language model that proposes words."""

    where: ClassVar[str] = "novel.endpoint"


class NovelConfig(Settings):
    """New beginnings practice gets besides the recorded ones.

    The audit speaks for recorded scenes: what a world model makes of a scene it has never seen is not measured.
    """

    where: ClassVar[str] = "novel"

    scenes: Novel = 0
    """How many edited scenes."""
    edits: Texts = ("change_light", "change_colour")
    """What is done to each, in order: change_light, change_colour, change_background, paste_objects, or
    package.module:Factory for a plug-in, e.g. a generative editor."""
    crops: Annotated[tuple[Crop, ...], Field(strict=False)] = ()
    """Objects for paste_objects."""
    region: Annotated[tuple[int, int, int, int], Field(strict=False)] = (24, 12, 52, 52)
    """Where their centres may lie: top, left, bottom, right in pixels."""
    instructions: Novel = 0
    """How many starts with other words. They need a judge: the learned one knows only what it was taught."""
    endpoint: NovelEndpoint | None = None
    """Of a language model that proposes the words; none uses templates."""

    @property
    def asked(self) -> bool:
        """Whether anything is to be made."""
        return self.scenes > 0 or self.instructions > 0

    @model_validator(mode="after")
    def _makes_something(self) -> NovelConfig:
        if max(len(self.crops), len(self.edits)) > MOST_EDITS:
            raise ConfigError(f"novel: {len(self.crops)} crops and {len(self.edits)} edits; at most {MOST_EDITS} each")
        if unknown := [name for name in self.edits if name not in EDITS and ":" not in name]:
            raise ConfigError(
                f"novel: edit {unknown[0]!r} is not one of {', '.join(EDITS)}, nor package.module:Factory"
            )
        if self.scenes and not self.edits:
            raise ConfigError(f"novel: {self.scenes} scenes need edits; name some of {', '.join(EDITS)}, or a plug-in")
        if "paste_objects" in self.edits and not self.crops:
            raise ConfigError("paste_objects needs crops: [{episode, box, name}]")
        return self


class PracticeSettings(Settings):
    """What every training job in a dream can be set to."""

    where: ClassVar[str] = "config"

    device: Device = "auto"
    """Where world model, codec, large policies with their optimiser, and a vlm judge compute: auto (a GPU if there is
    one), cpu, cuda, cuda:N. Compact parts stay on the CPU. dream.device and judge.device override it."""
    dream: DreamConfig = Field(default_factory=DreamConfig)
    """How a DiT world model dreams, and how long a dream lasts."""
    groups: Count = 24
    """Start states per round of rollouts."""
    group_size: GroupSize = 8
    """Rollouts per start state."""
    keyframe_share: Share = 0.0
    """Share of groups that start at a later chunk of a recorded episode."""
    mask_after_success: bool = True
    """Learn nothing from what follows the first success. Better than without in 10 of 10 seeds
    (benchmarks/demo_seeds_cpu2_202611.md)."""
    judge: JudgeChoice | None = None
    """Who rewards instead of the learned judge: an endpoint or a local vision-language model; it passes the same floor,
    on the same held-out dreams. A trainer must allow it: gymnast serve --jobs-may judges."""
    novel: NovelConfig = Field(default_factory=NovelConfig)
    """New scenes and instructions to begin in."""
    ray: RolloutCluster | None = None
    """Rollouts on a Ray cluster. A trainer must allow it: gymnast serve --jobs-may ray."""
    most_episodes: Count = 1000
    """Only the newest so many are learned from."""
    lora_rank: Annotated[int, Field(ge=1, le=MOST_RANK)] = 8
    """Size of the adapters, where the job's mode is lora."""
    lora_rate: Positive = 5e-4
    """Learning rate of the adapters, where the job's mode is lora."""
    check: bool = True
    """Refuse to practise where the audit is out of bounds, and to offer what may forget."""
    overrides: dict[str, str] = Field(default_factory=dict)
    """Bounds that an operator decided to ignore, {name: reason}; the reason stays in the result, the lineage and the
    log. Of the judge: judge_floor, judge_task_floor, judge_drift, sight_floor."""
    judge_task_floor: Share | None = None
    """The lower end (95 %) of the judge's precision on held-out dreams of every single task must reach it. Off by
    default: an eighth of 150 episodes a task holds about 20 labels and 7 successes, which prove a precision of .2 to .5
    even for a judge that is always right."""

    @model_validator(mode="before")
    @classmethod
    def _dream_on_the_jobs_device(cls, values: Any) -> Any:
        device = values.get("device") if isinstance(values, Mapping) else None
        if not isinstance(device, str) or not DEVICES.fullmatch(device):
            return values
        dream = values.get("dream", {})
        named = dream.named() if isinstance(dream, DreamConfig) else dream
        return {**values, "dream": {"device": device, **named}} if isinstance(named, Mapping) else values

    @model_validator(mode="after")
    def _can_be(self: SettingsT) -> SettingsT:
        assert isinstance(self, PracticeSettings)
        check_rollouts(self.groups, self.group_size)
        check_overrides(self.overrides, self.overridable())
        if self.novel.instructions and self.judge is None:
            raise ConfigError("novel.instructions need config.judge: the learned judge knows only what it was taught")
        return self

    @classmethod
    def overridable(cls) -> set[str]:
        """Return the names that `overrides` may name."""
        return {*AuditBounds.model_fields, *OVERRIDABLE} - {"trusted_error", SCENE_SUCCESS}


class RefiningSettings(PracticeSettings):
    """What a job can be set to that refines world model and judge first and audits them at home."""

    refine_iterations: CountOrZero = 100
    """Of the world model; 0 keeps the parent."""
    refine_rate: Positive = 1e-4
    """Peak learning rate of the refinement. Short and gentle: old episodes do not travel with a checkpoint, and what is
    not rehearsed is forgotten."""
    judge_iterations: CountOrZero = 200
    """Of the judge; 0 keeps the parent."""
    judge_rate: Positive = 3e-4
    """Peak learning rate of the judge."""
    forgetting_starts: CountOrZero | None = None
    """Held-out starts a task, at most, from which candidates are dreamt beside their parent, which is reported and
    decides nothing; none is 10."""
    audit: PracticeAudit = Field(default_factory=PracticeAudit)
    """Which parts of the audit are measured before practice."""
    bounds: AuditBounds = Field(default_factory=AuditBounds)
    """Bounds of the audit, where they shall be others than those the world model was calibrated to (or the usual ones
    where it never was)."""
    judge_floor: Share | None = 0.4
    """The lower end (95 %) of the judge's precision on held-out dreams, all tasks together, must reach it; none asks
    for nothing. 76-89 held-out dreams of the demo's five seeds prove .52 to .72, and calling everything a success has a
    precision of .26 to .42; above .5 would refuse by chance."""

    sight_floor: Share | None = None
    """Least sight on the policy that practises: P(judge says success | it succeeded) - P(the same | it failed) on
    dreams of its own held-out episodes. It is refused where the upper end (95 %) is lower. None asks for what the
    practice had that this policy came out of, and for nothing where it came out of none."""


class ReinforcingSettings(PracticeSettings):
    """What a job can be set to that reinforces."""

    grpo_iterations: Count = 8
    """Policy updates. Few on purpose: imagined reward keeps rising long after real success falls."""
    learning_rate: Positive = 2e-4
    """Of the policy."""
    grpo: GrpoChoices = Field(default_factory=GrpoChoices)
    """Every other choice of GRPO."""
    ray: ClusterConfig | None = None
    """Rollouts and learner on a Ray cluster. World model and judge are refined in the job's own process; a large world
    model is refined on several GPUs by `gymnast wm train`, and the job then takes it with refine_iterations 0. A
    trainer must allow it: gymnast serve --jobs-may ray."""
