"""From a batch to the losses: one forward pass and everything it is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.training.auxiliary import AttributeHeads, GroundingHead, NamingHead, OutlineHead, TowerHead
from x2sam_rt.model.training.batch import Batch
from x2sam_rt.model.training.forward import Prediction, predict, read
from x2sam_rt.model.training.losses import LossWeights, next_token_loss, set_loss
from x2sam_rt.model.x2sam import X2SAM


@dataclass(frozen=True)
class AuxiliaryWeights:
    """Dense losses that help small models; 0 leaves one out. classes: values of each kind of attribute."""

    attributes: float = 0.0
    grounding: float = 0.0
    naming: float = 0.0
    outline: float = 0.0
    tower: float = 0.0
    classes: tuple[int, ...] = ()


class Auxiliary(nn.Module):
    """The heads of the dense losses, those of weight 0 left out; thrown away after training."""

    def __init__(self, config: ModelConfig, weights: AuxiliaryWeights) -> None:
        super().__init__()
        self.attributes = AttributeHeads(config, weights.classes) if weights.attributes else None
        self.grounding = GroundingHead(config) if weights.grounding else None
        self.naming = NamingHead(config, weights.classes) if weights.naming else None
        self.outline = OutlineHead(config) if weights.outline else None
        self.tower = TowerHead(config, weights.classes) if weights.tower else None

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """The unweighted losses, by name."""
        heads = {
            "attributes": self.attributes,
            "grounding": self.grounding,
            "naming": self.naming,
            "outline": self.outline,
        }
        found = {name: head(prediction, batch) for name, head in heads.items() if head is not None}
        return found | self.reading_losses(prediction.visual, batch)

    def reading_losses(self, visual: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Those that need the language side alone. visual: as in `Reading`."""
        return {} if self.tower is None else {"tower": self.tower(visual, batch)}


@dataclass(frozen=True)
class Objective:
    """The weighted sum of all losses of a batch, with each of them by name. points: places at which masks are
    compared; None = every cell. amp: the forward pass in bf16 autocast."""

    weights: LossWeights
    auxiliary: AuxiliaryWeights
    points: int | None
    amp: bool = False

    def __call__(
        self,
        model: X2SAM,
        heads: Auxiliary,
        batch: Batch,
        *,
        segments: bool,
        teach_memory: bool,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """segments: False leaves the masks out; what the language side reads and writes is judged alone. Returns the
        scalar to minimise, and the unweighted losses."""
        device = batch.frames.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.amp):
            if not segments:
                return self._read(model, heads, batch)
            prediction = predict(model, batch, teach_memory=teach_memory)
            with torch.autocast(device, enabled=False):  # matching takes small differences of large sums
                total, losses = self._losses(prediction, batch, generator)
            return self._helped(total, losses, heads.losses(prediction, batch))

    def _read(self, model: X2SAM, heads: Auxiliary, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        reading = read(model, batch)
        words = next_token_loss(reading.token_logits, batch.text.ids, batch.text.answer)
        helping = heads.reading_losses(reading.visual, batch)
        return self._helped(self.weights.next_token * words, {"next_token": words}, helping)

    def _helped(
        self, total: Tensor, losses: dict[str, Tensor], helping: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        for name, loss in helping.items():
            total = total + getattr(self.auxiliary, name) * loss
        return total, losses | helping

    def _losses(
        self, prediction: Prediction, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
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
