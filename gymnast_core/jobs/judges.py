"""Which judge rewards, where it is not the learned one: an endpoint, a local vision-language model, or a checkpoint.

The same values stand under `judge` in a job's or a loop's configuration, and in the file of
`gymnast judge calibrate --judge FILE`:

    kind = "endpoint"                        # any OpenAI-compatible server, e.g. vLLM
    base_url = "http://localhost:8000/v1"
    model = "Qwen/Qwen3-VL-8B-Instruct"
    key_variable = "JUDGE_API_KEY"           # the variable's name; the key itself is never stored
    [voting]
    votes = 5
    [rubrics]                                # what success means, by instruction; weights are partial credit
    "put the cube on the plate" = [
      {name = "lifted", text = "the cube left the table", weight = 1, required = false},
      {name = "on_plate", text = "at the end the cube lies on the plate", weight = 2},
    ]

    kind = "vlm"                             # Qwen-VL or SmolVLM, in this process
    folder = "models/SmolVLM2-500M"
    device = "cuda"

Installed packages add kinds of their own (gymnast_core.extensions); theirs get all other settings by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from gymnast_core.errors import ConfigError
from gymnast_core.extensions import JUDGES, installed
from gymnast_core.settings import Count, Device, NotNegative, Positive, Seed, Settings

Text = Annotated[str, Field(min_length=1)]
Frames = Annotated[int, Field(ge=2, le=64)]


class Endpoint(Settings):
    """Where a model is and how patient to be with it."""

    where: ClassVar[str] = "endpoint"

    base_url: str
    """Up to and including /v1."""
    model: str
    """Its name there."""
    key_variable: str = ""
    """Environment variable that holds the API key; empty sends none. The key itself is never stored."""
    timeout_s: Positive = 60.0
    """Of one request, from its first byte to the last of the answer."""
    attempts: Count = 5
    """Tries of one request."""
    first_wait_s: Positive = 1.0
    """Upper end of the first random wait between tries; doubles each time."""
    longest_wait_s: Positive = 30.0
    """Cap of a wait, also of a server's Retry-After."""
    temperature: NotNegative = 0.7
    """Of the answers."""
    max_tokens: Count = 400
    """Of an answer."""
    token_limit: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto"
    """Name of that limit in a request; auto begins with max_tokens and takes max_completion_tokens when the server asks
    for it, as newer models do."""

    @model_validator(mode="after")
    def _is_an_address(self) -> Endpoint:
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url must begin with http:// or https://, got {self.base_url!r}")
        return self


class Voting(Settings):
    """When votes make a verdict: never a tie, never a single word."""

    where: ClassVar[str] = "voting"

    votes: Annotated[int, Field(ge=1, le=101)] = 5
    """Asked per rollout."""
    min_valid: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of votes that must be readable."""
    min_agreement: Annotated[float, Field(gt=0.5, le=1)] = 0.75
    """Share of the readable votes that must agree; a tie can never pass."""
    max_frames: Frames = 8
    """Shown per rollout, first and last always."""
    control: bool = True
    """Ask a question whose true answer is no before granting a success."""
    outage_after: Count = 3
    """Calls failing in a row after which the rest of a batch abstains unasked."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Rollouts judged at once."""
    seed: Seed = 0
    """Of the votes."""


class Criterion(Settings):
    """One thing to look for in a rollout."""

    where: ClassVar[str] = "rubric"

    name: str
    """Key in the answer."""
    text: str
    """What must be seen."""
    weight: NotNegative = 1.0
    """Share of the partial credit."""
    required: bool = True
    """Whether success needs it."""


def check_criteria(criteria: Sequence[Criterion]) -> None:
    """Refuse rubrics that cannot be failed or graded.

    Raises:
        ConfigError: two criteria of one name, none that is required, or none with a weight.
    """
    names = [criterion.name for criterion in criteria]
    if len(set(names)) != len(names) or not any(criterion.required for criterion in criteria):
        raise ConfigError(f"criteria need different names and at least one required, got {names}")
    if sum(criterion.weight for criterion in criteria) <= 0:
        raise ConfigError(f"weights must not be all 0, got {names}")


class EndpointChoice(Endpoint):
    """A vision-language model behind an OpenAI-compatible server."""

    where: ClassVar[str] = "endpoint judge"

    kind: Literal["endpoint"]
    """endpoint."""
    voting: Voting = Field(default_factory=Voting)
    """When votes make a verdict."""
    rubrics: Mapping[str, Annotated[tuple[Criterion, ...], Field(strict=False)]] = Field(default_factory=dict)
    """What success means, by instruction; the instruction itself for all others."""

    @model_validator(mode="after")
    def _can_be_graded(self) -> EndpointChoice:
        for criteria in self.rubrics.values():
            check_criteria(criteria)
        return self


class VlmSettings(Settings):
    """When a probability becomes a verdict."""

    where: ClassVar[str] = "vlm judge"

    success_at: float = 0.8
    """P(yes) at or above which it is a success."""
    failure_at: float = 0.4
    """P(yes) at or below which it is a failure; between them the judge abstains."""
    max_frames: Frames = 6
    """Shown per rollout, first and last always."""
    control: bool = True
    """Ask a question whose true answer is no before granting a success."""

    @model_validator(mode="after")
    def _in_order(self) -> VlmSettings:
        if not 0 < self.failure_at < self.success_at < 1:
            raise ConfigError(
                f"vlm judge: need 0 < failure_at < success_at < 1, got {self.failure_at} and {self.success_at}"
            )
        return self


class VlmChoice(VlmSettings):
    """A vision-language model in the job's own process."""

    kind: Literal["vlm"]
    """vlm."""
    folder: Text
    """Of the model."""
    device: Device | None = None
    """Where it computes; none is the job's own device, or auto."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Of its weights."""


class CheckpointChoice(Settings):
    """A learned judge other than the job's."""

    where: ClassVar[str] = "checkpoint judge"

    kind: Literal["checkpoint"]
    """checkpoint."""
    folder: Text
    """Of the checkpoint."""


class AddedChoice(Settings):
    """A judge of an installed package (gymnast_core.extensions), which gets all other settings by name."""

    model_config = ConfigDict(extra="allow")
    where: ClassVar[str] = "judge"

    kind: str
    """checkpoint, endpoint, vlm, or the name under which an installed package adds one."""

    @model_validator(mode="after")
    def _is_installed(self) -> AddedChoice:
        if self.kind not in (others := installed(JUDGES)):
            raise ConfigError(f"judge kind {self.kind!r} is not one of {', '.join((*BUILT_IN, *others))}")
        return self


BUILT_IN = ("checkpoint", "endpoint", "vlm")


def _tag(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return str(kind) if kind in BUILT_IN else "added"


Choice = CheckpointChoice | EndpointChoice | VlmChoice | AddedChoice
JudgeChoice = Annotated[
    Annotated[CheckpointChoice, Tag("checkpoint")]
    | Annotated[EndpointChoice, Tag("endpoint")]
    | Annotated[VlmChoice, Tag("vlm")]
    | Annotated[AddedChoice, Tag("added")],
    Discriminator(_tag),
]
"""Who rewards."""
