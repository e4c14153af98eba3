"""From a batch to the losses: one forward pass and everything it is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.training.auxiliary import AttributeHeads, GroundingHead, NamingHead, OutlineHead
from x2sam_rt.model.training.batch import Batch
from x2sam_rt.model.training.forward import Prediction, predict
from x2sam_rt.model.training.losses import LossWeights, next_token_loss, set_loss
from x2sam_rt.model.x2sam import X2SAM


@dataclass(frozen=True)
class AuxiliaryWeights:
    """Dense losses that help small models; 0 leaves one out. classes: values of each kind of attribute."""

    attributes: float = 0.0
    grounding: float = 0.0
    naming: float = 0.0
    outline: float = 0.0
    classes: tuple[int, ...] = ()


class Auxiliary(nn.Module):
    """The heads of the dense losses, those of weight 0 left out; thrown away after training."""

    def __init__(self, config: ModelConfig, weights: AuxiliaryWeights) -> None:
        super().__init__()
        self.attributes = AttributeHeads(config, weights.classes) if weights.attributes else None
        self.grounding = GroundingHead(config) if weights.grounding else None
        self.naming = NamingHead(config, weights.classes) if weights.naming else None
        self.outline = OutlineHead(config) if weights.outline else None

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """The unweighted losses, by name."""
        heads = {
            "attributes": self.attributes,
            "grounding": self.grounding,
            "naming": self.naming,
            "outline": self.outline,
        }
        return {name: head(prediction, batch) for name, head in heads.items() if head is not None}


@dataclass(frozen=True)
class Objective:
    """The weighted sum of all losses of a batch, with each of them by name. points: places at which masks are
    compared; None = every cell. amp: the forward pass in bf16 autocast."""

    weights: LossWeights
    auxiliary: AuxiliaryWeights
    points: int | None
    amp: bool = False

    def __call__(
        self, model: X2SAM, heads: Auxiliary, batch: Batch, *, teach_memory: bool, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the scalar to minimise, and the unweighted losses."""
        device = batch.frames.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.amp):
            prediction = predict(model, batch, teach_memory=teach_memory)
            with torch.autocast(device, enabled=False):  # matching takes small differences of large sums
                total, losses = self._losses(prediction, batch, generator)
            for name, loss in heads.losses(prediction, batch).items():
                losses[name] = loss
                total = total + getattr(self.auxiliary, name) * loss
        return total, losses

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
