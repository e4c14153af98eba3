from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from recordings import FIXTURES
from safetensors.torch import save_file
from torch import Tensor

from x2sam_rt.errors import CheckpointError, ConfigError, TrainingError
from x2sam_rt.model.checkpoint.files import embedded_checkpoint, read_tensor_file, read_tensor_folder
from x2sam_rt.model.checkpoint.loading import Checkpoint, load_checkpoint, training_layout
from x2sam_rt.model.language import LanguageModel
from x2sam_rt.model.training.adapters import (
    adapter_tensors,
    add_adapters,
    continue_adapters,
    merged_state_dict,
    training_state_dict,
)
from x2sam_rt.model.x2sam import X2SAM

LORA = FIXTURES / "toy_lora"
BASE = LORA / "vlm"
TOKENIZER = embedded_checkpoint() / "tokenizer"


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loaded() -> X2SAM:
    return load_checkpoint(LORA, vlm=str(BASE), tokenizer=TOKENIZER).model


def on_base() -> X2SAM:
    """The model with the base's language layers, as they were before any adapter."""
    model = loaded()
    base = {name: value for name, value in read_tensor_folder(BASE).items() if "language_model.layers" in name}
    model.vlm.load_state_dict(base, strict=False)
    return model


def states(model: X2SAM) -> Tensor:
    language = LanguageModel(model.vlm)
    return language.states(language.embed(torch.tensor([5, 17, 402, 3, 3]))[None])[0].detach()


def disturb(model: X2SAM) -> None:
    with torch.no_grad():
        for index, value in enumerate(adapter_tensors(model).values()):
            value.add_(0.2 * torch.randn(value.shape, generator=drawing(index)))


def reload(model: X2SAM, tensors: dict[str, Tensor], folder: Path, file: str, vlm: Path | None) -> Checkpoint:
    (folder / "config.json").write_text(json.dumps(model.config.to_json()))
    if file.endswith(".bin"):
        torch.save(tensors, folder / file)
    else:
        save_file(tensors, folder / file)
    return load_checkpoint(folder, vlm=None if vlm is None else str(vlm), tokenizer=TOKENIZER)


def test_new_adapters_change_nothing_and_alone_learn() -> None:
    model = loaded()
    before = states(model)
    add_adapters(model, rank=3, alpha=6, generator=drawing())
    torch.testing.assert_close(states(model), before, rtol=0, atol=0)
    learning = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name.rpartition(".")[2] for name in learning} == {"down", "up"}
    assert len(learning) == len(adapter_tensors(model))


def test_gradients_reach_the_adapters_only() -> None:
    model = loaded()
    add_adapters(model, rank=2, alpha=2, generator=drawing())
    text = model.vlm.model.language_model
    text(input_ids=torch.tensor([[5, 17, 402]])).last_hidden_state.square().sum().backward()
    for name, value in model.named_parameters():
        if name.endswith(".up"):
            assert value.grad is not None
            assert value.grad.abs().sum() > 0
        elif not name.endswith(".down"):
            assert value.grad is None


@pytest.mark.parametrize("rank", [1, 5])
def test_names_and_shapes_are_a_training_checkpoints(rank: int) -> None:
    model = loaded()
    layout = training_layout(model, rank)
    add_adapters(model, rank, alpha=4)
    stored = training_state_dict(model)
    assert {name: tuple(value.shape) for name, value in stored.items()} == layout
    assert set(adapter_tensors(model)) == {name for name in layout if ".lora_" in name}


@pytest.mark.parametrize("file", ["pytorch_model.bin", "checkpoint.safetensors"])
@pytest.mark.parametrize(("rank", "alpha"), [(3, 6.0), (4, 1.0)], ids=["published-scale", "other-scale"])
def test_a_saved_training_checkpoint_is_the_same_model(tmp_path: Path, file: str, rank: int, alpha: float) -> None:
    model = on_base()
    untouched = states(model)
    add_adapters(model, rank, alpha, drawing())
    disturb(model)
    again = reload(model, training_state_dict(model), tmp_path, file, BASE)
    changed = states(model)
    assert (changed - untouched).abs().max() > 0.1
    torch.testing.assert_close(states(again.model), changed, rtol=1e-4, atol=1e-4)
    for name, value in again.model.segmentor.state_dict().items():
        assert torch.equal(value, model.segmentor.state_dict()[name])


def test_adapters_of_a_checkpoint_learn_on(tmp_path: Path) -> None:
    model = loaded()
    merged = states(model)
    tensors = read_tensor_file(LORA / "pytorch_model.bin")
    continue_adapters(model, tensors, read_tensor_folder(BASE))
    torch.testing.assert_close(states(model), merged, rtol=1e-4, atol=1e-4)
    stored = training_state_dict(model)
    assert set(stored) == set(tensors)
    for name, value in tensors.items():
        assert torch.equal(stored[name], value.float()), name
    disturb(model)
    again = reload(model, training_state_dict(model), tmp_path, "pytorch_model.bin", BASE)
    torch.testing.assert_close(states(again.model), states(model), rtol=1e-4, atol=1e-4)


def test_a_merged_checkpoint_needs_no_base(tmp_path: Path) -> None:
    model = load_checkpoint(embedded_checkpoint()).model
    model.vlm.lm_head.weight = model.vlm.model.language_model.embed_tokens.weight  # tied, as it would be trained
    names = set(model.state_dict())
    add_adapters(model, rank=3, alpha=6, generator=drawing())
    disturb(model)
    merged = merged_state_dict(model)
    assert set(merged) == names
    again = reload(model, merged, tmp_path, "checkpoint.safetensors", None)
    torch.testing.assert_close(states(again.model), states(model), rtol=1e-4, atol=1e-4)


def test_adapting_twice_or_to_nothing_is_refused() -> None:
    model = loaded()
    with pytest.raises(ConfigError, match="rank is 0"):
        add_adapters(model, rank=0, alpha=2)
    with pytest.raises(TrainingError, match="no adapters"):
        training_state_dict(model)
    with pytest.raises(CheckpointError, match="no adapters to continue"):
        continue_adapters(model, {}, {})
    add_adapters(model, rank=1, alpha=2)
    with pytest.raises(TrainingError, match="adapters already"):
        add_adapters(model, rank=1, alpha=2)
