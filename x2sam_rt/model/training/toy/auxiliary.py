"""Dense help for small models: heads that name attributes of cells and words, and find the conditions in the features.

They teach features and words what there is to tell apart long before the masks could, and are thrown away after
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_rt.config import NUM_SCALES, ModelConfig
from x2sam_rt.data.example import Example
from x2sam_rt.model.training.batch import Batch
from x2sam_rt.model.training.forward import Prediction
from x2sam_rt.model.training.objective import Auxiliary, LossTensors
from x2sam_rt.model.training.toy.labels import CLASSES, COLOUR, DenseLabels, dense_labels

# Along each side of a visual token: parts that are named, pixels that are drawn.
_PARTS, _DRAWN = 4, 8


@dataclass(frozen=True)
class AuxiliaryWeights:
    """Of each loss in the sum; 0 leaves it out."""

    attributes: float = 0.0
    grounding: float = 0.0
    naming: float = 0.0
    outline: float = 0.0
    tower: float = 0.0

    def heads(self, config: ModelConfig) -> ToyAuxiliary:
        """What a recipe's `auxiliary` is."""
        return ToyAuxiliary(config, self)


class ToyAuxiliary(Auxiliary):
    """The heads of the dense losses, those of weight 0 left out."""

    def __init__(self, config: ModelConfig, weights: AuxiliaryWeights) -> None:
        super().__init__()
        self.weights = {field.name: getattr(weights, field.name) for field in fields(weights)}
        self.attributes = AttributeHeads(config) if weights.attributes else None
        self.grounding = GroundingHead(config) if weights.grounding else None
        self.naming = NamingHead(config) if weights.naming else None
        self.outline = OutlineHead(config) if weights.outline else None
        self.tower = TowerHead(config) if weights.tower else None

    def losses(self, prediction: Prediction, batch: Batch, examples: Sequence[Example]) -> LossTensors:
        labels = dense_labels(examples, batch.frames)
        found: LossTensors = {}
        if self.attributes is not None:
            found["attributes"] = self.attributes(prediction, batch, labels)
        if self.grounding is not None:
            found["grounding"] = self.grounding(prediction, batch)
        if self.naming is not None:
            found["naming"] = self.naming(prediction, batch, labels)
        if self.outline is not None:
            found["outline"] = self.outline(prediction, labels)
        if self.tower is not None:
            found["tower"] = self.tower(prediction.visual, batch, labels)
        return found

    def words_losses(self, visual: Tensor, batch: Batch, examples: Sequence[Example]) -> LossTensors:
        if self.tower is None:
            return {}
        return {"tower": self.tower(visual, batch, dense_labels(examples, batch.frames))}


class AttributeHeads(nn.Module):
    """One linear classifier per kind of attribute and map: the frames' own features and the conditioned ones at every
    scale, and the mask features.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.own = nn.ModuleList(nn.Conv2d(config.dim, sum(CLASSES), 1) for _ in range(NUM_SCALES))
        self.conditioned = nn.ModuleList(nn.Conv2d(config.dim, sum(CLASSES), 1) for _ in range(NUM_SCALES))
        self.fine = nn.Conv2d(config.dim, sum(CLASSES), 1)

    def forward(self, prediction: Prediction, batch: Batch, labels: DenseLabels) -> Tensor:
        """The mean cross-entropy over all maps and attributes. What a frame does not show, its own features need not
        know; the conditioned ones must have it from memory."""
        attributes, visible = labels.attributes, labels.visible
        own = [_attribute_loss(h(f), attributes, visible) for h, f in zip(self.own, prediction.own, strict=True)]
        losses = [*own, _attribute_loss(self.fine(prediction.mask_features), attributes, visible)]
        if batch.frames.shape[1] > 1:
            everything = torch.ones_like(visible)
            losses += [
                _attribute_loss(head(features), attributes, everything)
                for head, features in zip(self.conditioned, prediction.conditioned, strict=True)
            ]
        return torch.stack(losses).mean()


class TowerHead(nn.Module):
    """What the mask encoder's features are taught, for the visual tower: the parts of every token name what they show,
    and the token draws what within it is a thing. Words alone teach it colours: a few names of shapes a sentence are
    too little to learn edges from."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.parts = nn.Linear(config.language_dim, sum(CLASSES) * _PARTS**2)
        self.pixels = nn.Linear(config.language_dim, _DRAWN**2)

    def forward(self, visual: Tensor, batch: Batch, labels: DenseLabels) -> Tensor:
        """visual: as in `Reading`. The cross-entropy of the attributes plus the binary one of the outlines, by the
        labels of the first frame of each pair."""
        rows, columns = batch.vision.height // 2, batch.vision.width // 2
        named = F.pixel_shuffle(self.parts(visual).mT.unflatten(-1, (rows, columns)), _PARTS)
        objects = labels.objects[batch.pair_frames]
        wanted = F.pixel_unshuffle(F.adaptive_avg_pool2d(objects, (rows * _DRAWN, columns * _DRAWN)), _DRAWN)
        drawn = self.pixels(visual).mT.unflatten(-1, (rows, columns))
        outlines = F.binary_cross_entropy_with_logits(drawn, wanted)
        return (
            _attribute_loss(named, labels.attributes[batch.pair_frames], labels.visible[batch.pair_frames]) + outlines
        )


def _attribute_loss(logits: Tensor, attributes: Tensor, visible: Tensor) -> Tensor:
    """The mean over the kinds, of things and of ground."""
    labels = _at_cells(attributes, logits.shape[-1])
    # Things cover little of a frame; were they not weighed apart, there would be no need to learn their shapes.
    thing = labels[:, COLOUR] > 0
    labels = labels.masked_fill(~visible[..., None, None], -1)
    parts = torch.split(logits, list(CLASSES), dim=1)
    losses = [
        _cross_entropy(part, labels[:, kind], where) for kind, part in enumerate(parts) for where in (thing, ~thing)
    ]
    return torch.stack(losses).mean()


def _cross_entropy(logits: Tensor, labels: Tensor, where: Tensor) -> Tensor:
    """Mean over the known cells of one part of the frames; zero when there are none."""
    chosen = labels.masked_fill(~where, -1)
    if not (chosen >= 0).any():
        return logits.new_zeros(())
    return F.cross_entropy(logits, chosen, ignore_index=-1)


def _at_cells(attributes: Tensor, side: int) -> Tensor:
    """(frames, K, S, S) read at the centres of a side × side grid."""
    step = attributes.shape[-1] // side
    return attributes[..., step // 2 :: step, step // 2 :: step]


class OutlineHead(nn.Module):
    """Every cell draws, pixel by pixel, what within it is a thing. Categories of shapes are too coarse a label to
    learn edges and corners from; their pixels are not."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.steps = [config.image_size // side for side in (*config.grids, config.grids[-1])]
        self.pixels = nn.ModuleList(nn.Conv2d(config.dim, step**2, 1) for step in self.steps)

    def forward(self, prediction: Prediction, labels: DenseLabels) -> Tensor:
        """The mean binary cross-entropy over own features and mask features."""
        maps = (*prediction.own, prediction.mask_features)
        losses = [
            F.binary_cross_entropy_with_logits(head(features), F.pixel_unshuffle(labels.objects, step))
            for head, features, step in zip(self.pixels, maps, self.steps, strict=True)
        ]
        return torch.stack(losses).mean()


class GroundingHead(nn.Module):
    """Finds every condition in the mask features and the conditioned ones directly: a cosine per cell."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(config.dim, config.dim, 1) for _ in range(NUM_SCALES + 1))
        self.words = nn.Linear(config.dim, config.dim)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Returns the mean BCE + dice over the conditions of labelled frames."""
        wanted, present = _by_condition(batch, prediction.conditions.shape[1])
        words = F.normalize(self.words(prediction.conditions), dim=-1)
        losses = []
        for head, features in zip(self.maps, (*prediction.conditioned, prediction.mask_features), strict=True):
            cells = F.normalize(head(features), dim=1)
            logits = self.scale.exp() * 3 * (words @ cells.flatten(2)) + self.bias
            right = F.adaptive_avg_pool2d(wanted, (features.shape[-2], features.shape[-1])).flatten(2)
            losses.append(_mask_loss(logits[present], right[present]))
        return torch.stack(losses).mean()


def _by_condition(batch: Batch, conditions: int) -> tuple[Tensor, Tensor]:
    """Masks of every condition (B·T, C, h, w), and which of them are real and labelled (B·T, C)."""
    targets, frames = batch.targets, batch.frames.shape[1]
    chosen = F.one_hot(targets.conditions, conditions).float() * targets.valid[..., None]
    masks = torch.einsum("fnhw,fnc->fchw", targets.masks, chosen).clamp_max(1)
    real = batch.text.pool.any(-1).repeat_interleave(frames, 0)
    return masks, real & batch.draws[:, None]


def _mask_loss(logits: Tensor, right: Tensor) -> Tensor:
    if not len(logits):
        return logits.sum()
    chance = logits.sigmoid()
    dice = 1 - (2 * (chance * right).sum(1) + 1) / (chance.sum(1) + right.sum(1) + 1)
    return F.binary_cross_entropy_with_logits(logits, right) + dice.mean()


class NamingHead(nn.Module):
    """Names the attributes of what each condition means and of what each query covers, both by one classifier.

    Masks alone teach colours at once and then stop: a colour finds most objects, and what is wrong with the rest is
    too faint a hint at the shape. The shared classifier also makes words and queries point the same way, which is
    what their cosine, the class logit, asks for.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.names = nn.Linear(config.dim, sum(CLASSES))
        self.length = config.dim**0.5

    def forward(self, prediction: Prediction, batch: Batch, labels: DenseLabels) -> Tensor:
        """Returns the mean cross-entropy of the conditions with a target, against the shares of each attribute in the
        targets' cells over all frames, plus that of the queries, against the shares in their own masks."""
        wanted, real = _by_condition(batch, prediction.conditions.shape[1])
        cells = _at_cells(labels.attributes, wanted.shape[-1])
        areas = _areas(cells, wanted * real[..., None, None])
        frames = batch.frames.shape[1]
        together = areas.view(-1, frames, *areas.shape[1:]).sum(1)
        words = self._loss(prediction.conditions[::frames], together)
        masks = (prediction.mask_logits.detach() > 0).float()
        covered = torch.stack([_areas(cells, layer) for layer in masks])
        return words + self._loss(prediction.states, covered)

    def _loss(self, states: Tensor, areas: Tensor) -> Tensor:
        """states: (…, D). areas: (…, all classes)."""
        logits = self.names(F.normalize(states, dim=-1) * self.length)
        kinds = zip(*(torch.split(values, list(CLASSES), dim=-1) for values in (logits, areas)), strict=True)
        return torch.stack([_soft_cross_entropy(part, area) for part, area in kinds]).mean()


def _areas(labels: Tensor, masks: Tensor) -> Tensor:
    """labels: (F, K, h, w), −1 unknown. masks: (F, N, h, w). Returns (F, N, all classes): the cells of each mask by
    each kind of label."""
    cells = [F.one_hot(labels[:, kind] + 1, count + 1)[..., 1:] for kind, count in enumerate(CLASSES)]
    return torch.einsum("fnhw,fhwk->fnk", masks, torch.cat(cells, dim=-1).float())


def _soft_cross_entropy(logits: Tensor, areas: Tensor) -> Tensor:
    """Against the shares of the areas; rows without any area do not count."""
    total = areas.sum(-1, keepdim=True)
    each = -(areas / total.clamp_min(1e-6) * logits.log_softmax(-1)).sum(-1)
    return each.sum() / (total > 0).sum().clamp_min(1)
