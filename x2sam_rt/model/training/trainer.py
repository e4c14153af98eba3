"""The training loop: recipe in, trained weights out; stops and resumes at any step."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from x2sam_rt.errors import TrainingError
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.training.batch import make_batch
from x2sam_rt.model.training.curve import CurvePoint, LossLog, draw_curve, read_curve
from x2sam_rt.model.training.objective import Objective
from x2sam_rt.model.training.recipe import Lesson, Recipe, Stage
from x2sam_rt.model.training.state import Progress, TrainingState
from x2sam_rt.model.x2sam import X2SAM

LOG_FILE, CURVE_FILE = "losses.jsonl", "losses.svg"
_BETAS = (0.9, 0.98)
LossValues = dict[str, float]
Report = Callable[[int, LossValues], None]


@dataclass(frozen=True)
class Rank:
    """One of the processes that share a training run."""

    number: int = 0
    of: int = 1

    @property
    def leads(self) -> bool:
        return self.number == 0


class Trainer:
    """Owns the model, its throw-away heads and the optimiser; `run` does the remaining steps.

    Parameters that need no gradient stay as they are in every stage. Each step depends on the recipe and its number
    alone, so a resumed run does what an uninterrupted one would have done.
    """

    def __init__(
        self, model: X2SAM, tokenizer: Tokenizer, recipe: Recipe, folder: Path, *, resume: bool, rank: Rank
    ) -> None:
        self.model, self.recipe = model.to(recipe.device), recipe
        self._tokenizer, self._folder, self._rank = tokenizer, folder, rank
        self._heads = recipe.auxiliary(model.config).to(recipe.device)
        self._learnable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        modules = {"model": model, "heads": self._heads}
        self._optimizer = torch.optim.AdamW(
            _decay_groups(modules, recipe.weight_decay), lr=0.0, betas=_BETAS, fused=True
        )
        self._state = TrainingState(modules, self._optimizer, recipe.description)
        self._progress = self._state.load(folder) if resume else Progress()
        self._resumed = resume
        self._stage: Stage | None = None
        self._moving: list[nn.Parameter] = []

    def run(self, report: Report, stop: Callable[[], bool] = lambda: False) -> None:
        """Does the remaining steps. report: told of each, by the leading process only. stop: asked after each step;
        when any process is told so, all of them stop, with the state saved, and raise KeyboardInterrupt.

        Raises DataError naming a bad example, TrainingError when a loss or gradient is not finite (naming the batch).
        """
        begun = time.monotonic() - self._progress.seconds
        with LossLog(*self._log_place()) if self._rank.leads else contextlib.nullcontext() as log:
            if not self._resumed:
                self.save()  # a folder that cannot take it is found out now, and any later kill can be resumed
            for number in range(self._progress.steps, self.recipe.steps):
                losses, rate = self.step(number)
                self._progress = Progress(number + 1, time.monotonic() - begun)
                if log is not None:
                    log.write(CurvePoint(number + 1, self._progress.seconds, rate, losses))
                    report(number + 1, losses)
                stopped = self._anyone(stop())
                if stopped or (number + 1) % self.recipe.save_every == 0 or number + 1 == self.recipe.steps:
                    self.save()
                if stopped:
                    raise KeyboardInterrupt

    def step(self, number: int) -> tuple[LossValues, float]:
        """One step: batches, losses, gradients, update. Returns the losses by name and the learning rate."""
        stage, within = self.recipe.stage_at(number)
        self._enter(stage)
        rate = learning_rate(stage, within)
        forced = math.floor((within + 1) * stage.teacher_forcing) > math.floor(within * stage.teacher_forcing)
        self._optimizer.zero_grad(set_to_none=True)
        batches = self.recipe.batches(stage.mixture.media(number))
        shared = range(self._rank.number, self._rank.of * batches, self._rank.of)
        lessons = stage.lessons(within)
        found = [self._learn(stage, lesson, number, part, forced) for part in shared for lesson in lessons]
        self._update(rate, f"step {number + 1}", [name for names, _ in found for name in names])
        return _means([losses for _, losses in found]), rate

    def _learn(
        self, stage: Stage, lesson: Lesson, number: int, part: int, teacher_forcing: bool
    ) -> tuple[tuple[str, ...], LossValues]:
        """Adds the gradients of one batch. Returns the names of its examples and its losses."""
        examples = lesson.mixture.batch(number, part)
        batch = make_batch(examples, self.model.config, self._tokenizer).to(self.recipe.device)
        # A hash of numbers is the same in every process.
        generator = torch.Generator().manual_seed(hash((self.recipe.seed, number, part)))
        objective = Objective(self.model, self._heads, stage.weights, self.recipe.points, amp=self.recipe.amp)
        if lesson.segments:
            total, losses = objective.everything(batch, examples, teacher_forcing=teacher_forcing, generator=generator)
        else:
            total, losses = objective.words(batch, examples)
        found = {f"{lesson.prefix}{name}": float(loss.detach()) for name, loss in losses.items()}
        if not total.isfinite():
            raise TrainingError(
                f"The loss of step {number + 1} is {float(total.detach())} ({found}). "
                f"Its examples: {', '.join(batch.names)}."
            )
        (total / self.recipe.batches(stage.mixture.media(number))).backward()  # type: ignore[no-untyped-call]
        return batch.names, found

    def _enter(self, stage: Stage) -> None:
        """Only what the stage trains gets gradients."""
        if stage is self._stage:
            return
        for name, parameter in self._learnable.items():
            parameter.requires_grad_(name.startswith(stage.trains))
        moving = [parameter for parameter in self._learnable.values() if parameter.requires_grad]
        if not moving:
            raise TrainingError(
                f"The stage {stage.name} trains nothing: no parameter that can learn begins with one of {stage.trains}."
            )
        self._stage, self._moving = stage, [*moving, *self._heads.parameters()]

    def _update(self, rate: float, step: str, names: Sequence[str]) -> None:
        """All processes move alike."""
        _average(self._moving, self._rank.of)
        norm = nn.utils.clip_grad_norm_(self._moving, self.recipe.clip_norm)
        if not norm.isfinite():
            raise TrainingError(
                f"The gradient of {step} is not finite, though its losses are. Its examples: {', '.join(names)}. "
                "Resume from the last checkpoint with a lower learning rate, or look at these examples."
            )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()

    def _anyone(self, asked: bool) -> bool:
        """Whether any process was asked: all must leave after the same step, as each waits for the others."""
        if self._rank.of == 1:
            return asked
        flag = torch.tensor([float(asked)])
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag.item())

    def _log_place(self) -> tuple[Path, int | None]:
        return self._folder / LOG_FILE, self._progress.steps if self._resumed else None

    def save(self) -> None:
        """State and curve, by the leading process."""
        if self._rank.leads:
            self._state.save(self._folder, self._progress)
            if self._progress.steps:
                draw_curve(read_curve(self._folder / LOG_FILE), self._folder / CURVE_FILE)


def _means(parts: Sequence[LossValues]) -> LossValues:
    """Of each loss over the batches that have it."""
    collected: dict[str, list[float]] = {}
    for losses in parts:
        for name, loss in losses.items():
            collected.setdefault(name, []).append(loss)
    return {name: sum(values) / len(values) for name, values in collected.items()}


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up, then half a cosine from `start_factor` to `end_factor`."""
    if step < stage.warmup:
        return stage.learning_rate * stage.start_factor * (step + 1) / stage.warmup
    along = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    share = stage.end_factor + (stage.start_factor - stage.end_factor) * (1 + math.cos(math.pi * along)) / 2
    return stage.learning_rate * share


def _decay_groups(modules: dict[str, nn.Module], decay: float) -> list[dict[str, object]]:
    """Matrices decay; norms, biases and embeddings do not."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for module in modules.values():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                (matrices if parameter.ndim > 1 and "embed" not in name else rest).append(parameter)
    return [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


def _average(parameters: list[nn.Parameter], processes: int) -> None:
    """Every process ends with the mean of all gradients. A parameter the batch did not use has a gradient of zero,
    so that one process learns like several."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if processes == 1:
        return
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    together /= processes
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, gradient in zip(parameters, torch.split(together, sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)
