"""From a batch to the losses: one forward pass and everything it is judged by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from x2sam_rt.config import ModelConfig
from x2sam_rt.data.example import Example
from x2sam_rt.model.training.batch import Batch
from x2sam_rt.model.training.forward import Prediction, predict, read
from x2sam_rt.model.training.losses import LossWeights, next_token_loss, set_loss
from x2sam_rt.model.x2sam import X2SAM

LossTensors = dict[str, Tensor]


class Auxiliary(nn.Module, ABC):
    """A recipe's losses beside X2SAM's own, by heads that learn with the model and are thrown away after training.

    weights: of each of its losses, by name.
    """

    weights: Mapping[str, float]

    @abstractmethod
    def losses(self, prediction: Prediction, batch: Batch, examples: Sequence[Example]) -> LossTensors:
        """The unweighted losses, by name. examples: those the batch was made of, which may hold more labels."""

    @abstractmethod
    def words_losses(self, visual: Tensor, batch: Batch, examples: Sequence[Example]) -> LossTensors:
        """Those of them that need the language side alone. visual: as in `Reading`."""


class NoAuxiliary(Auxiliary):
    """X2SAM's own losses are all."""

    def __init__(self, _config: ModelConfig) -> None:
        super().__init__()
        self.weights = {}

    def losses(self, _prediction: Prediction, _batch: Batch, _examples: Sequence[Example]) -> LossTensors:
        return {}

    def words_losses(self, _visual: Tensor, _batch: Batch, _examples: Sequence[Example]) -> LossTensors:
        return {}


@dataclass(frozen=True, eq=False)
class Objective:
    """The weighted sum of all losses of a batch, with each of them, unweighted, by name. points: places at which masks
    are compared; None = every cell. amp: the forward pass in bf16 autocast."""

    model: X2SAM
    auxiliary: Auxiliary
    weights: LossWeights
    points: int | None
    amp: bool = False

    def everything(
        self, batch: Batch, examples: Sequence[Example], *, teacher_forcing: bool, generator: torch.Generator
    ) -> tuple[Tensor, LossTensors]:
        """examples: those the batch was made of. teacher_forcing: the memory is given the true masks. Returns the
        scalar to minimise, and the losses."""
        device = batch.frames.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.amp):
            prediction = predict(self.model, batch, teacher_forcing=teacher_forcing)
            with torch.autocast(device, enabled=False):  # matching takes small differences of large sums
                total, losses = self._own(prediction, batch, generator)
            return self._with(total, losses, self.auxiliary.losses(prediction, batch, examples))

    def words(self, batch: Batch, examples: Sequence[Example]) -> tuple[Tensor, LossTensors]:
        """The same of what the language side reads and writes alone, without masks."""
        with torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=self.amp):
            reading = read(self.model, batch)
            words = next_token_loss(reading.token_logits, batch.text.ids, batch.text.answer)
            more = self.auxiliary.words_losses(reading.visual, batch, examples)
            return self._with(self.weights.next_token * words, {"next_token": words}, more)

    def _with(self, total: Tensor, losses: LossTensors, more: LossTensors) -> tuple[Tensor, LossTensors]:
        for name, loss in more.items():
            total = total + self.auxiliary.weights[name] * loss
        return total, losses | more

    def _own(self, prediction: Prediction, batch: Batch, generator: torch.Generator) -> tuple[Tensor, LossTensors]:
        background = torch.full_like(batch.draws, prediction.class_logits.shape[-1] - 1, dtype=torch.int64)
        masks = set_loss(
            prediction.mask_logits,
            prediction.class_logits,
            batch.targets,
            background,
            weights=self.weights,
            points=self.points,
            generator=generator,
            names=batch.frame_names,
            labelled=batch.draws,
        )
        words = next_token_loss(prediction.token_logits, batch.text.ids, batch.text.answer)
        total = masks.weighted(self.weights) + self.weights.next_token * words
        return total, {**vars(masks), "next_token": words}
