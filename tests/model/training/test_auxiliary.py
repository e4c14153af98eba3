from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import one_hot

from x2sam_rt.data.world import ATTRIBUTE_CLASSES, world_example
from x2sam_rt.errors import DataError
from x2sam_rt.model.training.auxiliary import AttributeHeads, GroundingHead, NamingHead, OutlineHead, TowerHead
from x2sam_rt.model.training.batch import Batch, make_batch
from x2sam_rt.model.training.forward import Prediction, predict
from x2sam_rt.model.training.losses import LossWeights
from x2sam_rt.model.training.objective import Auxiliary, AuxiliaryWeights, Objective

COLOUR = 1
DRAINED = replace(tiny.CLIPS, drained=1.0, drained_frames=2)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Two clips with frames that hide their colours."""
    examples = [world_example("train", index, "referring", media="video", settings=DRAINED) for index in (0, 1)]
    return make_batch(examples, tiny.untrained().model.config, tiny.untrained().tokenizer)


@pytest.fixture
def prediction(batch: Batch) -> Prediction:
    """Its tensors are leaves: what the heads ask of each can be seen."""
    with torch.no_grad():
        found = predict(tiny.untrained().model, batch, teach_memory=True)
    leaves = {}
    for name, value in vars(found).items():
        leaves[name] = tuple(map(leaf, value)) if isinstance(value, tuple) else leaf(value)
    return Prediction(**leaves)


def leaf(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_()


class TowerOfPrediction(TowerHead):
    """Called like the other heads."""

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:  # type: ignore[override]
        return super().forward(prediction.visual, batch)


def heads(kind: str) -> nn.Module:
    torch.manual_seed(0)
    config = tiny.untrained().model.config
    made: dict[str, nn.Module] = {
        "attributes": AttributeHeads(config, ATTRIBUTE_CLASSES),
        "outline": OutlineHead(config),
        "grounding": GroundingHead(config),
        "naming": NamingHead(config, ATTRIBUTE_CLASSES),
        "tower": TowerOfPrediction(config, ATTRIBUTE_CLASSES),
    }
    return made[kind]


TAUGHT = {
    "attributes": {"own", "conditioned", "mask_features"},
    "outline": {"own", "mask_features"},
    "grounding": {"conditioned", "mask_features", "conditions"},
    "naming": {"conditions", "states"},
    "tower": {"visual"},
}


@pytest.mark.parametrize("kind", TAUGHT)
def test_each_head_teaches_its_features(batch: Batch, prediction: Prediction, kind: str) -> None:
    head = heads(kind)
    loss = head(prediction, batch)
    assert loss.item() > 0
    loss.backward()
    reached = set()
    for name, value in vars(prediction).items():
        parts = value if isinstance(value, tuple) else (value,)
        if all(part.grad is not None and part.grad.any() for part in parts):
            reached.add(name)
    assert reached == TAUGHT[kind]
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("kind", ["attributes", "outline", "naming", "tower"])
def test_without_labels_there_is_nothing_to_teach(batch: Batch, prediction: Prediction, kind: str) -> None:
    assert heads(kind)(prediction, replace(batch, attributes=None, shown=None)).item() == 0


def test_hidden_colours_are_asked_of_memory_only(batch: Batch, prediction: Prediction) -> None:
    assert batch.attributes is not None
    assert batch.shown is not None
    hidden = ~batch.shown[:, COLOUR]
    assert hidden.any()
    head = heads("attributes")
    other = batch.attributes.clone()
    colours = other[hidden, COLOUR]
    other[hidden, COLOUR] = torch.where(colours >= 1, 1 + colours % (ATTRIBUTE_CLASSES[COLOUR] - 1), colours)
    assert (other != batch.attributes).any()
    first, second = (gradients(head, prediction, replace(batch, attributes=a)) for a in (batch.attributes, other))
    assert all(torch.equal(a, b) for a, b in zip(first["own"], second["own"], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first["conditioned"], second["conditioned"], strict=True))


def gradients(head: nn.Module, prediction: Prediction, batch: Batch) -> dict[str, tuple[Tensor, ...]]:
    kinds = {"own": prediction.own, "conditioned": prediction.conditioned}
    loss = head(prediction, batch)
    return {name: torch.autograd.grad(loss, features, retain_graph=True) for name, features in kinds.items()}


def test_covered_cells_are_not_asked_for(batch: Batch, prediction: Prediction) -> None:
    assert batch.attributes is not None
    unknown = torch.full_like(batch.attributes, -1)
    assert heads("attributes")(prediction, replace(batch, attributes=unknown)).item() == 0
    assert heads("naming")(prediction, replace(batch, attributes=unknown)).item() == 0


def test_parts_of_visual_tokens_are_where_their_labels_are(batch: Batch, prediction: Prediction) -> None:
    """A tower that says what each part of a token shows has little left to learn; one that says it elsewhere has
    much."""
    assert batch.attributes is not None
    head, parts = heads("tower"), 4
    assert isinstance(head, TowerHead)
    rows, columns = batch.vision.height // 2, batch.vision.width // 2
    step = tiny.SIDE // (rows * parts)
    cells = batch.attributes[batch.pair_frames][..., step // 2 :: step, step // 2 :: step]
    assert cells.shape[-2:] == (rows * parts, columns * parts)
    kinds = enumerate(ATTRIBUTE_CLASSES)
    right = [one_hot(cells[:, kind].clamp_min(0), count).movedim(-1, 1) for kind, count in kinds]
    said = F.pixel_unshuffle(20.0 * torch.cat(right, dim=1), parts).flatten(2).mT
    head.parts = nn.Identity()  # type: ignore[assignment]
    head.pixels = Nothing(rows * columns, 8**2)  # type: ignore[assignment]
    only = replace(batch, shown=torch.ones_like(batch.shown) if batch.shown is not None else None)
    assert head(replace(prediction, visual=said), only) < head(replace(prediction, visual=said.flip(1)), only) - 1


class Nothing(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width

    def forward(self, visual: Tensor) -> Tensor:
        return visual.new_zeros(len(visual), self.tokens, self.width)


def test_a_visual_token_draws_its_own_things(batch: Batch, prediction: Prediction) -> None:
    assert batch.attributes is not None
    head = heads("tower")
    assert isinstance(head, TowerHead)
    rows, columns = batch.vision.height // 2, batch.vision.width // 2
    thing = (batch.attributes[batch.pair_frames][:, COLOUR, None] > 0).float()
    shares = F.adaptive_avg_pool2d(thing, (rows * 8, columns * 8))
    drawn = F.pixel_unshuffle(40 * shares - 20, 8).flatten(2).mT
    head.pixels = nn.Identity()  # type: ignore[assignment]
    head.parts = Nothing(rows * columns, 4**2 * sum(ATTRIBUTE_CLASSES))  # type: ignore[assignment]
    right, moved = (head(replace(prediction, visual=one), batch) for one in (drawn, drawn.flip(1)))
    assert right < moved - 0.5


def test_a_cell_draws_its_own_pixels(batch: Batch, prediction: Prediction) -> None:
    assert batch.attributes is not None
    head = heads("outline")
    assert isinstance(head, OutlineHead)
    thing = (batch.attributes[:, COLOUR, None] > 0).float()
    maps = [40 * F.pixel_unshuffle(thing, step) - 20 for step in head.steps]
    head.pixels = nn.ModuleList(nn.Identity() for _ in head.steps)
    drawn = replace(prediction, own=tuple(maps[:3]), mask_features=maps[3])
    assert head(drawn, batch).item() < 1e-6
    moved = replace(drawn, own=tuple(one.roll(1, -1) for one in maps[:3]))
    assert head(moved, batch).item() > 0.5


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


def test_attributes_must_be_of_the_models_size() -> None:
    example = tiny.clip(0)
    assert example.attributes is not None
    small = replace(example, attributes=example.attributes[..., ::2, ::2].copy())
    with pytest.raises(DataError, match=rf"Example {example.name}: its attributes are of \(32, 32\) pixels"):
        make_batch([small], tiny.untrained().model.config, tiny.untrained().tokenizer)


def test_heads_of_weight_zero_are_left_out() -> None:
    config = tiny.untrained().model.config
    assert list(Auxiliary(config, AuxiliaryWeights()).parameters()) == []
    only = Auxiliary(config, AuxiliaryWeights(outline=0.5))
    assert {name.split(".")[0] for name, _ in only.named_parameters()} == {"outline"}


def test_the_objective_is_the_weighted_sum(batch: Batch) -> None:
    model = tiny.untrained().model
    weights = LossWeights(mask_bce=2, dice=3, classification=4, next_token=5)
    auxiliary = AuxiliaryWeights(attributes=6, grounding=7, naming=8, outline=9, tower=10, classes=ATTRIBUTE_CLASSES)
    objective = Objective(weights, auxiliary, points=None)
    with torch.no_grad():
        total, losses = objective(
            model,
            Auxiliary(model.config, auxiliary),
            batch,
            segments=True,
            teach_memory=True,
            generator=torch.Generator(),
        )
    masks, dense = ["mask_bce", "dice", "classification"], ["attributes", "grounding", "naming", "outline", "tower"]
    wanted = [*masks, "next_token", *dense]
    assert list(losses) == wanted
    right = sum(weight * losses[name].item() for weight, name in enumerate(wanted, start=2))
    assert total.item() == pytest.approx(right)
