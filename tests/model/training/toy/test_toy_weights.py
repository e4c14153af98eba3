from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch

from x2sam_rt.model.training.toy.initial_weights import initialise
from x2sam_rt.model.x2sam import X2SAM


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """torch fills memory it hands out uninitialised with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def fresh(seed: int) -> X2SAM:
    torch.manual_seed(seed)
    model = X2SAM(tiny.config(400))
    initialise(model)
    return model


def test_nothing_is_left_uninitialised(poisoned_memory: None) -> None:
    assert torch.empty(2).isnan().all()
    model = fresh(0)
    assert [name for name, value in model.state_dict().items() if not value.isfinite().all()] == []
    silent = {name for name, value in model.named_parameters() if value.ndim > 1 and not value.any()}
    # What is sampled begins the same everywhere; nothing reads the shared embedding.
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in silent} == {
        "sampling_offsets",
        "attention_weights",
        "shared_image_embedding",
    }


def test_a_seed_makes_one_model(tmp_path: Path) -> None:
    one, same, other = fresh(1).state_dict(), fresh(1).state_dict(), fresh(2).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["vlm.lm_head.weight"], other["vlm.lm_head.weight"])


def test_nothing_is_dropped_at_random() -> None:
    """Training and inference compute the same, and a resumed run needs no generator's state."""
    drops = [part.p for part in fresh(0).modules() if "Drop" in type(part).__name__ and hasattr(part, "p")]
    assert all(chance == 0 for chance in drops)


def test_the_output_table_stays_tied() -> None:
    model = fresh(0)
    assert model.vlm.lm_head.weight is model.vlm.model.language_model.embed_tokens.weight


def test_sampling_begins_around_the_query() -> None:
    attention = fresh(0).segmentor.pixel_decoder.encoder.layers[0].self_attn
    offsets = attention.sampling_offsets.bias.view(attention.n_heads, attention.n_levels, attention.n_points, 2)
    farthest = offsets.abs().amax(-1)
    assert torch.allclose(farthest, torch.arange(1, attention.n_points + 1).float().expand_as(farthest))
    directions = offsets[:, 0, 0]
    assert len({tuple(row) for row in directions.round(decimals=3).tolist()}) == attention.n_heads


def test_memory_attention_begins_by_likeness() -> None:
    """A token attends most to the memory that is like it."""
    layer = fresh(0).segmentor.memory_attention.layers[0].cross_attn
    tokens = torch.nn.functional.layer_norm(torch.randn(40, 32, generator=torch.Generator().manual_seed(0)), (32,))
    with torch.no_grad():
        scores = layer.q_proj(tokens) @ layer.k_proj(tokens).T
    assert torch.equal(scores.argmax(1), torch.arange(40))
