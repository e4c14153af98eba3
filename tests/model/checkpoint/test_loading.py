from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from recordings import FIXTURES, RANDOM_TOY
from safetensors.torch import load_file, save_file

from x2sam_rt.errors import CheckpointError, ConfigError
from x2sam_rt.model.checkpoint.loading import empty_model, historic_layout, load_checkpoint, training_layout
from x2sam_rt.model.checkpoint.published import PUBLISHED

LORA = FIXTURES / "toy_lora"
TOKENIZER = RANDOM_TOY / "tokenizer"


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RANDOM_TOY, tmp_path / "single"))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LORA, tmp_path / "trained"))


def test_published_sizes_ask_for_exactly_the_published_tensors() -> None:
    listed = json.loads((FIXTURES / "checkpoint_tensors.json").read_text())["tensors"]
    model = empty_model(PUBLISHED)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert training_layout(model, rank=128) == {name: tuple(shape) for name, (shape, _) in listed.items()}


def test_adapters_are_merged_in_fp32() -> None:
    model = load_checkpoint(LORA, vlm=str(LORA / "vlm"), tokenizer=TOKENIZER).model
    tensors = torch.load(LORA / "pytorch_model.bin", weights_only=True)
    tensors = tensors.get("state_dict", tensors)
    base = load_file(LORA / "vlm" / "model.safetensors")
    name = "model.language_model.layers.2.mlp.down_proj"
    down, up = (tensors[f"vlm.base_model.model.{name}.lora_{part}.default.weight"].double() for part in "AB")
    merged = base[f"{name}.weight"].double() + 2.0 * up @ down
    torch.testing.assert_close(model.state_dict()[f"vlm.{name}.weight"].double(), merged, atol=1e-6, rtol=1e-6)


def test_tables_take_the_checkpoints_rows() -> None:
    model = load_checkpoint(LORA, vlm=str(LORA / "vlm"), tokenizer=TOKENIZER).model
    assert model.config.language["text_config"]["vocab_size"] == 403
    assert model.vlm.lm_head.weight.shape[0] == 403


def test_every_misfit_is_named_at_once(single: Path) -> None:
    file = single / "checkpoint.safetensors"
    tensors = load_file(file)
    del tensors["segmentor.memory_attention.layer_norm.bias"], tensors["bg_embeds.weight"]
    tensors["segmentor.no_memory_embedding"] = torch.zeros(1, 1, 33)
    tensors["segmentor.surplus"] = torch.zeros(2)
    save_file(tensors, file)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(single)
    message = str(caught.value)
    assert "2 missing, 1 unexpected, 1 mis-shaped" in message
    assert "missing: segmentor.memory_attention.layer_norm.bias" in message
    assert "missing: bg_embeds.weight" in message
    assert "unexpected: segmentor.surplus" in message
    assert "segmentor.no_memory_embedding: found (1, 1, 33), wanted (1, 1, 32)" in message


HISTORIC = [
    "segmentor.class_predictor.cls_bias",
    "segmentor.pixel_decoder.encoder.layers.0.self_attn.n_points_scale",
    "segmentor.pixel_decoder.encoder.layers.1.self_attn.n_points_scale",
]


def test_tensors_of_earlier_checkpoints_are_passed_over_and_named(caplog: pytest.LogCaptureFixture) -> None:
    file = FIXTURES / "toy_lora_historic" / "pytorch_model.bin"
    config = LORA / "config.json"
    earlier = load_checkpoint(file, vlm=str(LORA / "vlm"), config=config, tokenizer=TOKENIZER).model.state_dict()
    assert "3 tensors" in caplog.text
    assert all(name in caplog.text for name in HISTORIC)
    caplog.clear()
    present = load_checkpoint(LORA, vlm=str(LORA / "vlm"), tokenizer=TOKENIZER).model.state_dict()
    assert caplog.text == ""
    assert earlier.keys() == present.keys()
    assert all(torch.equal(earlier[name], value) for name, value in present.items())


def test_the_published_model_has_seven_of_them() -> None:
    layout = historic_layout(empty_model(PUBLISHED))
    assert len(layout) == 7
    assert set(layout.values()) == {(1,), (12,)}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (HISTORIC[0], 2),
        (HISTORIC[1], 16),
        ("segmentor.pixel_decoder.encoder.layers.2.self_attn.n_points_scale", 12),  # the model has layers 0 and 1
        ("segmentor.class_predictor.bias", 1),
    ],
)
def test_nothing_like_them_is(single: Path, name: str, size: int) -> None:
    file = single / "checkpoint.safetensors"
    save_file({**load_file(file), name: torch.zeros(size)}, file)
    with pytest.raises(CheckpointError, match=rf"unexpected: {name} \({size},\)"):
        load_checkpoint(single)


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_half_an_adapter_is_missing(trained: Path, part: str) -> None:
    file = trained / "pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    inner = tensors.get("state_dict", tensors)
    name = f"vlm.base_model.model.model.language_model.layers.1.self_attn.q_proj.{part}.default.weight"
    del inner[name]
    torch.save(tensors, file)
    with pytest.raises(CheckpointError, match=f"missing: {name}"):
        load_checkpoint(trained, vlm=str(trained / "vlm"), tokenizer=TOKENIZER)


def test_state_dict_may_be_nested(trained: Path) -> None:
    file = trained / "pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    nested = tensors.get("state_dict", tensors)
    for content in (nested, {"state_dict": nested}):
        torch.save(content, file)
        load_checkpoint(trained, vlm=str(trained / "vlm"), tokenizer=TOKENIZER)


def test_training_checkpoint_wants_its_base() -> None:
    with pytest.raises(CheckpointError, match="Pass --vlm"):
        load_checkpoint(LORA, tokenizer=TOKENIZER)


def test_pickled_code_is_not_run(trained: Path, tmp_path: Path) -> None:
    flag = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (flag,)

    (trained / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(CheckpointError, match="weights-only"):
        load_checkpoint(trained, vlm=str(trained / "vlm"), tokenizer=TOKENIZER)
    assert not flag.exists()


@pytest.mark.parametrize("size", [0, 7, 100_000], ids=["empty", "stub", "cut"])
def test_damaged_files_are_named(single: Path, size: int) -> None:
    file = single / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: not a readable"):
        load_checkpoint(single)


def test_missing_file_tokenizer_and_hub_name(single: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="neither a path here nor a model"):
        load_checkpoint(LORA, vlm="not a hub name", tokenizer=TOKENIZER)
    shutil.rmtree(single / "tokenizer")
    with pytest.raises(CheckpointError, match="--tokenizer"):
        load_checkpoint(single)


def test_unknown_configuration_keys_are_named(single: Path) -> None:
    file = single / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "memroy": 3}))
    with pytest.raises(ConfigError, match="memroy"):
        load_checkpoint(single)
