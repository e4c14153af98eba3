"""Every form a checkpoint comes in gives the same model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recordings import FIXTURES, RANDOM_TOY
from safetensors.torch import load_file, save_file
from torch import Tensor

from x2sam_rt.errors import CheckpointError
from x2sam_rt.model.checkpoint import files, tensor_file
from x2sam_rt.model.checkpoint.files import read_tensor_file
from x2sam_rt.model.checkpoint.loading import Checkpoint, load_checkpoint
from x2sam_rt.model.checkpoint.tensor_file import TensorToWrite, write_shards, write_tensors

LORA = FIXTURES / "toy_lora"
TOKENIZER = RANDOM_TOY / "tokenizer"
WRAPPED = "vlm.base_model.model."


@pytest.fixture(scope="module")
def partial() -> Checkpoint:
    return load_checkpoint(LORA, vlm=str(LORA / "vlm"), tokenizer=TOKENIZER)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def config_of(checkpoint: Checkpoint, folder: Path) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(checkpoint.config.to_json()))
    return path


@pytest.mark.parametrize("named", [True, False])
def test_the_full_dictionary_of_training_needs_no_base(partial: Checkpoint, tmp_path: Path, named: bool) -> None:
    """As the adapters' library names it: what is adapted under `base_layer` (its first versions: under its own name),
    trained tables twice."""
    stored = read_tensor_file(LORA / "pytorch_model.bin")
    adapted = {name.split(".lora_")[0] for name in stored if ".lora_" in name}
    full: dict[str, Tensor] = {name: value for name, value in stored.items() if not name.startswith(WRAPPED)}
    full |= {name: value for name, value in stored.items() if ".lora_" in name}
    for name, weight in partial.weights.items():
        if name.startswith("vlm."):
            module, _, kind = (WRAPPED + name.removeprefix("vlm.")).rpartition(".")
            wrapped = f"{module}.base_layer.{kind}" if named and module in adapted else f"{module}.{kind}"
            full[wrapped] = weight.stored
    embed = f"{WRAPPED}model.language_model.embed_tokens"
    full[f"{embed}.modules_to_save.default.weight"] = full.pop(f"{embed}.weight")
    full[f"{embed}.original_module.weight"] = torch.zeros(3, 3)
    torch.save(full, tmp_path / "pytorch_model.bin")
    loaded = load_checkpoint(tmp_path, config=config_of(partial, tmp_path), tokenizer=TOKENIZER)
    assert same(loaded, partial)
    ending = ".base_layer.weight" if named else "language_model.layers.1.self_attn.q_proj.weight"
    del full[next(name for name in full if name.endswith(ending))]
    torch.save(full, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="1 missing" if named else "Pass --vlm"):
        load_checkpoint(tmp_path, config=config_of(partial, tmp_path), tokenizer=TOKENIZER)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_widened_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    original = load_checkpoint(RANDOM_TOY)
    tensors = {name: weight.stored.to(dtype).clone() for name, weight in original.weights.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path, config=config_of(original, tmp_path), tokenizer=TOKENIZER)
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, tensors[name].float())


@pytest.mark.parametrize("shard", [50_000, 10**9])
def test_shards_hold_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int) -> None:
    monkeypatch.setattr(tensor_file, "SHARD_BYTES", shard)
    original = load_checkpoint(RANDOM_TOY)
    write_shards(to_write(original, torch.float32), tmp_path)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 2) == (shard == 50_000)
    assert same(load_checkpoint(tmp_path, config=config_of(original, tmp_path), tokenizer=TOKENIZER), original)
    if shard == 50_000:
        next(tmp_path.glob("model-00002-*")).unlink()
        with pytest.raises(CheckpointError, match="no such file"):
            load_checkpoint(tmp_path, config=config_of(original, tmp_path), tokenizer=TOKENIZER)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_are_those_of_the_library(tmp_path: Path, dtype: torch.dtype) -> None:
    original = load_checkpoint(RANDOM_TOY)
    write_tensors(to_write(original, dtype), tmp_path / "ours.safetensors")
    save_file({n: w.stored.to(dtype).clone() for n, w in original.weights.items()}, tmp_path / "theirs.safetensors")
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    assert load_file(tmp_path / "ours.safetensors").keys() == original.weights.keys()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3.4e38])
def test_what_is_not_finite_is_not_written(tmp_path: Path, value: float) -> None:
    """3.4e38 is finite in fp32 and infinite in bf16."""
    bad = torch.tensor([[0.0, value]])
    with pytest.raises(CheckpointError, match="Tensor odd holds NaN or infinity"):
        write_tensors({"odd": TensorToWrite((1, 2), torch.bfloat16, lambda: bad)}, tmp_path / "odd.safetensors")


def test_hub_names_of_both_parts(partial: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[str]] = {}

    def stand_in(name: str, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str({"someone/trained": LORA, "someone/base": LORA / "vlm"}[name])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "snapshot_download", stand_in)
    loaded = load_checkpoint("someone/trained", vlm="someone/base", tokenizer=TOKENIZER)
    assert same(loaded, partial)
    assert "*.bin" in asked["someone/trained"]
    assert "*.bin" not in asked["someone/base"]


def to_write(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, TensorToWrite]:
    def reader(value: Tensor) -> Callable[[], Tensor]:
        return lambda: value

    return {
        name: TensorToWrite(tuple(weight.stored.shape), dtype, reader(weight.stored))
        for name, weight in checkpoint.weights.items()
    }
