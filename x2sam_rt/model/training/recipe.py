"""What a training run is: the stages it goes through and how each learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import ConfigError
from x2sam_rt.model.training.losses import LossWeights
from x2sam_rt.model.training.mixture import Mixture
from x2sam_rt.model.training.objective import Auxiliary, NoAuxiliary
from x2sam_rt.tasks.table import Media


@dataclass(frozen=True)
class Lesson:
    """A batch of a step: what it is drawn from, whether masks are learnt, and what its losses are called by."""

    mixture: Mixture
    segments: bool
    prefix: str = ""


@dataclass(frozen=True)
class Stage:
    """Steps that learn alike. mixture: what from. trains: prefixes of the parameters that move; ("",) = all.
    learning_rate: at its highest. start_factor, end_factor: how much of it the stage begins and ends with; it goes from
    one to the other along half a cosine, after `warmup` steps from zero. teacher_forcing: part of the video steps,
    0…1, whose memory is given the true masks. segments: False leaves the masks out, and the language side learns to see
    and say alone. rehearsal: batches that it goes on learning so from beside each step's own, from step
    `rehearsal_start` on. weights: of the losses.
    """

    name: str
    mixture: Mixture
    steps: int
    learning_rate: float
    trains: tuple[str, ...] = ("",)
    start_factor: float = 1.0
    end_factor: float = 1.0
    warmup: int = 0
    teacher_forcing: float = 0.0
    segments: bool = True
    rehearsal: Mixture | None = None
    rehearsal_start: int = 0
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.teacher_forcing <= 1:
            raise ConfigError(
                f"Stage {self.name}: {self.steps} steps, teacher forcing {self.teacher_forcing}; wanted 1 or more, and "
                "between 0 and 1."
            )
        if self.learning_rate < 0 or self.warmup < 0:
            raise ConfigError(
                f"Stage {self.name}: learning rate {self.learning_rate}, {self.warmup} steps of warm-up; "
                "wanted 0 or more."
            )

    def lessons(self, step: int) -> tuple[Lesson, ...]:
        """What each process learns from in a step of the stage."""
        own = Lesson(self.mixture, self.segments)
        if self.rehearsal is None or step < self.rehearsal_start:
            return (own,)
        return own, Lesson(self.rehearsal, segments=False, prefix="rehearsed_")


@dataclass(frozen=True)
class Recipe:
    """auxiliary: makes the heads of losses beside X2SAM's own. points: places at which masks are compared; None = every
    cell (small maps). amp: bf16 autocast. clip_norm: longest gradient. save_every: steps between checkpoints.
    processes: that share every step, one thread each. accumulate: batches that each process learns from in every step;
    accumulate_videos: in a step that learns from clips; None = as many. device: of the model, as torch names it.
    """

    name: str
    stages: tuple[Stage, ...]
    auxiliary: Callable[[ModelConfig], Auxiliary] = NoAuxiliary
    points: int | None = None
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    amp: bool = False
    save_every: int = 500
    seed: int = 0
    processes: int = 1
    accumulate: int = 1
    accumulate_videos: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("save_every", "processes", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"The recipe's {name} is {getattr(self, name)}; it must be 1 or more.")
        if self.accumulate_videos is not None and self.accumulate_videos < 1:
            raise ConfigError(f"The recipe's accumulate_videos is {self.accumulate_videos}; it must be 1 or more.")
        if not self.stages:
            raise ConfigError(f"The recipe {self.name} has no stage; there is nothing to train.")

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def description(self) -> str:
        """In one line, what makes a run this one: others do not go on from its state."""
        stages = ", ".join(f"{stage.steps} steps of {stage.name}" for stage in self.stages)
        batches = f"{self.accumulate} batches each"
        if self.batches("video") != self.accumulate:
            batches += f", {self.batches('video')} of clips"
        return f"{self.name}: {stages}; {self.processes} processes, {batches}, seed {self.seed}"

    def batches(self, media: Media) -> int:
        """How many each process learns from in a step of that modality."""
        if media == "video" and self.accumulate_videos is not None:
            return self.accumulate_videos
        return self.accumulate

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage a step belongs to, and the step's number within it."""
        within = step
        for stage in self.stages:
            if within < stage.steps:
                return stage, within
            within -= stage.steps
        raise ConfigError(f"The recipe {self.name} has {self.steps} steps; step {step} lies behind them.")
