from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import one_hot

from x2sam_rt.data.example import Example
from x2sam_rt.data.synthetic import SyntheticExample, synthetic_example
from x2sam_rt.errors import DataError
from x2sam_rt.model.training.batch import Batch, make_batch
from x2sam_rt.model.training.forward import Prediction, predict
from x2sam_rt.model.training.losses import LossWeights
from x2sam_rt.model.training.objective import Objective
from x2sam_rt.model.training.toy.auxiliary import (
    AttributeHeads,
    AuxiliaryWeights,
    GroundingHead,
    NamingHead,
    OutlineHead,
    TowerHead,
)
from x2sam_rt.model.training.toy.labels import CLASSES, COLOUR, DenseLabels, dense_labels

DESATURATED = replace(tiny.CLIPS, desaturated=1.0, desaturated_frames=2)


@pytest.fixture(scope="module")
def examples() -> list[SyntheticExample]:
    """Two clips with frames that hide their colours."""
    return [synthetic_example("train", index, "referring", media="video", settings=DESATURATED) for index in (0, 1)]


@pytest.fixture(scope="module")
def batch(examples: list[SyntheticExample]) -> Batch:
    return make_batch(examples, tiny.untrained().model.config, tiny.untrained().tokenizer)


@pytest.fixture(scope="module")
def labels(examples: list[SyntheticExample], batch: Batch) -> DenseLabels:
    return dense_labels(examples, batch.frames)


@pytest.fixture
def prediction(batch: Batch) -> Prediction:
    """Its tensors are leaves: what the heads ask of each can be seen."""
    with torch.no_grad():
        found = predict(tiny.untrained().model, batch, teacher_forcing=True)
    leaves = {}
    for name, value in vars(found).items():
        leaves[name] = tuple(map(leaf, value)) if isinstance(value, tuple) else leaf(value)
    return Prediction(**leaves)


def leaf(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_()


def loss_of(head: nn.Module, prediction: Prediction, batch: Batch, labels: DenseLabels) -> Tensor:
    """Each head with what it takes."""
    match head:
        case TowerHead():
            loss = head(prediction.visual, batch, labels)
        case OutlineHead():
            loss = head(prediction, labels)
        case GroundingHead():
            loss = head(prediction, batch)
        case _:
            loss = head(prediction, batch, labels)
    assert isinstance(loss, Tensor)
    return loss


def heads(kind: str) -> nn.Module:
    torch.manual_seed(0)
    config = tiny.untrained().model.config
    made: dict[str, nn.Module] = {
        "attributes": AttributeHeads(config),
        "outline": OutlineHead(config),
        "grounding": GroundingHead(config),
        "naming": NamingHead(config),
        "tower": TowerHead(config),
    }
    return made[kind]


REACHED = {
    "attributes": {"own", "conditioned", "mask_features"},
    "outline": {"own", "mask_features"},
    "grounding": {"conditioned", "mask_features", "conditions"},
    "naming": {"conditions", "states"},
    "tower": {"visual"},
}


@pytest.mark.parametrize("kind", REACHED)
def test_each_head_teaches_its_features(batch: Batch, labels: DenseLabels, prediction: Prediction, kind: str) -> None:
    head = heads(kind)
    loss = loss_of(head, prediction, batch, labels)
    assert loss.item() > 0
    loss.backward()
    reached = set()
    for name, value in vars(prediction).items():
        parts = value if isinstance(value, tuple) else (value,)
        if all(part.grad is not None and part.grad.any() for part in parts):
            reached.add(name)
    assert reached == REACHED[kind]
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_hidden_colours_are_asked_of_memory_only(batch: Batch, labels: DenseLabels, prediction: Prediction) -> None:
    hidden = ~labels.visible[:, COLOUR]
    assert hidden.any()
    head = heads("attributes")
    other = labels.attributes.clone()
    colours = other[hidden, COLOUR]
    other[hidden, COLOUR] = torch.where(colours >= 1, 1 + colours % (CLASSES[COLOUR] - 1), colours)
    assert (other != labels.attributes).any()
    first, second = (
        gradients(head, prediction, batch, replace(labels, attributes=a)) for a in (labels.attributes, other)
    )
    assert all(torch.equal(a, b) for a, b in zip(first["own"], second["own"], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first["conditioned"], second["conditioned"], strict=True))


def gradients(
    head: nn.Module, prediction: Prediction, batch: Batch, labels: DenseLabels
) -> dict[str, tuple[Tensor, ...]]:
    kinds = {"own": prediction.own, "conditioned": prediction.conditioned}
    loss = head(prediction, batch, labels)
    return {name: torch.autograd.grad(loss, features, retain_graph=True) for name, features in kinds.items()}


def test_occluded_cells_are_not_asked_for(batch: Batch, labels: DenseLabels, prediction: Prediction) -> None:
    unknown = replace(labels, attributes=torch.full_like(labels.attributes, -1))
    assert heads("attributes")(prediction, batch, unknown).item() == 0
    assert heads("naming")(prediction, batch, unknown).item() == 0


def test_parts_of_visual_tokens_are_where_their_labels_are(batch: Batch, labels: DenseLabels) -> None:
    """A tower that says what each part of a token shows has little left to learn; one that says it elsewhere has
    much."""
    head, parts = heads("tower"), 4
    assert isinstance(head, TowerHead)
    rows, columns = batch.vision.height // 2, batch.vision.width // 2
    step = tiny.SIDE // (rows * parts)
    cells = labels.attributes[batch.pair_frames][..., step // 2 :: step, step // 2 :: step]
    assert cells.shape[-2:] == (rows * parts, columns * parts)
    kinds = enumerate(CLASSES)
    right = [one_hot(cells[:, kind].clamp_min(0), count).movedim(-1, 1) for kind, count in kinds]
    said = F.pixel_unshuffle(20.0 * torch.cat(right, dim=1), parts).flatten(2).mT
    head.parts = nn.Identity()  # type: ignore[assignment]
    head.pixels = Nothing(rows * columns, 8**2)  # type: ignore[assignment]
    visible = replace(labels, visible=torch.ones_like(labels.visible))
    assert head(said, batch, visible) < head(said.flip(1), batch, visible) - 1


class Nothing(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width

    def forward(self, visual: Tensor) -> Tensor:
        return visual.new_zeros(len(visual), self.tokens, self.width)


def test_a_visual_token_draws_its_own_objects(batch: Batch, labels: DenseLabels) -> None:
    head = heads("tower")
    assert isinstance(head, TowerHead)
    rows, columns = batch.vision.height // 2, batch.vision.width // 2
    shares = F.adaptive_avg_pool2d(labels.objects[batch.pair_frames], (rows * 8, columns * 8))
    drawn = F.pixel_unshuffle(40 * shares - 20, 8).flatten(2).mT
    head.pixels = nn.Identity()  # type: ignore[assignment]
    head.parts = Nothing(rows * columns, 4**2 * sum(CLASSES))  # type: ignore[assignment]
    right, moved = (head(one, batch, labels) for one in (drawn, drawn.flip(1)))
    assert right < moved - 0.5


def test_a_cell_draws_its_own_pixels(labels: DenseLabels, prediction: Prediction) -> None:
    head = heads("outline")
    assert isinstance(head, OutlineHead)
    maps = [40 * F.pixel_unshuffle(labels.objects, step) - 20 for step in head.steps]
    head.pixels = nn.ModuleList(nn.Identity() for _ in head.steps)
    drawn = replace(prediction, own=tuple(maps[:3]), mask_features=maps[3])
    assert head(drawn, labels).item() < 1e-6
    moved = replace(drawn, own=tuple(one.roll(1, -1) for one in maps[:3]))
    assert head(moved, labels).item() > 0.5


def test_grounding_finds_a_phrase_in_the_cells_of_its_object(batch: Batch, prediction: Prediction) -> None:
    head = heads("grounding")
    assert isinstance(head, GroundingHead)
    head.maps = nn.ModuleList(nn.Identity() for _ in head.maps)
    head.words = nn.Identity()  # type: ignore[assignment]
    features = (*prediction.conditioned, prediction.mask_features)
    truth = [F.adaptive_avg_pool2d(whole_masks(batch), one.shape[-2:]) for one in features]
    word = prediction.conditions[:, 0, :, None, None]
    *low, fine = (word * (2 * (share > 0.5) - 1) for share in truth)
    found = head(replace(prediction, conditioned=tuple(low), mask_features=fine), batch)
    missed = head(replace(prediction, conditioned=tuple(-one for one in low), mask_features=-fine), batch)
    assert found < 0.3 * missed


def whole_masks(batch: Batch) -> Tensor:
    targets = batch.targets
    return (targets.masks * targets.valid[..., None, None]).amax(1, keepdim=True)


def test_unlabelled_frames_ground_nothing(batch: Batch, prediction: Prediction) -> None:
    none = replace(batch, draws=torch.zeros_like(batch.draws))
    assert heads("grounding")(prediction, none).item() == 0


def test_objects_are_what_has_a_colour(examples: list[SyntheticExample], labels: DenseLabels) -> None:
    ids = torch.cat([torch.from_numpy(example.clip.ids) for example in examples])
    assert torch.equal(labels.objects[:, 0] > 0, ids >= 2)
    assert labels.attributes.shape == (2 * tiny.FRAMES, len(CLASSES), tiny.SIDE, tiny.SIDE)
    assert labels.attributes.dtype == torch.int64
    assert labels.visible.dtype == torch.bool


def test_labels_must_be_of_the_models_size() -> None:
    small = synthetic_example("train", 0, "referring", media="video", settings=replace(tiny.CLIPS, side=32))
    frames = make_batch([small], tiny.untrained().model.config, tiny.untrained().tokenizer).frames
    with pytest.raises(DataError, match=rf"Example {small.name}: its labels are of \(32, 32\) pixels"):
        dense_labels([small], frames)


def test_examples_without_labels_are_refused(examples: list[SyntheticExample], batch: Batch) -> None:
    fields = {name: value for name, value in vars(examples[1]).items() if name != "clip"}
    with pytest.raises(DataError, match=rf"Example {examples[1].name}: it is no SyntheticExample but Example"):
        dense_labels([examples[0], Example(**fields)], batch.frames)


def test_heads_of_weight_zero_are_left_out() -> None:
    config = tiny.untrained().model.config
    assert list(AuxiliaryWeights().heads(config).parameters()) == []
    only = AuxiliaryWeights(outline=0.5).heads(config)
    assert {name.split(".")[0] for name, _ in only.named_parameters()} == {"outline"}


def test_the_objective_is_the_weighted_sum(batch: Batch, examples: list[SyntheticExample]) -> None:
    model = tiny.untrained().model
    weights = LossWeights(mask_bce=2, dice=3, classification=4, next_token=5)
    auxiliary = AuxiliaryWeights(attributes=6, grounding=7, naming=8, outline=9, tower=10).heads(model.config)
    objective = Objective(model, auxiliary, weights, points=None)
    with torch.no_grad():
        total, losses = objective.everything(batch, examples, teacher_forcing=True, generator=torch.Generator())
    masks, dense = ["mask_bce", "dice", "classification"], ["attributes", "grounding", "naming", "outline", "tower"]
    wanted = [*masks, "next_token", *dense]
    assert list(losses) == wanted
    right = sum(weight * losses[name].item() for weight, name in enumerate(wanted, start=2))
    assert total.item() == pytest.approx(right)
