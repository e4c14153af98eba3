"""From trained files to a model: strict about names and shapes, adapters merged, nothing unpickled."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from x2sam_rt.config import ModelConfig, read_json
from x2sam_rt.errors import CheckpointError
from x2sam_rt.model.checkpoint.adapters import Adapter, adapter_names, adapter_rank
from x2sam_rt.model.checkpoint.files import base_folder, read_tensor_file, read_tensor_folder
from x2sam_rt.model.checkpoint.published import (
    PUBLISHED,
    fit_budgets,
    is_published_config,
    read_budgets,
    read_published_config,
)
from x2sam_rt.model.x2sam import X2SAM

_log = logging.getLogger(__name__)
Shapes = dict[str, tuple[int, ...]]

# A training checkpoint wraps the language model once for the adapters.
_TRAINED, _WRAPPED = "vlm.", "vlm.base_model.model."
_EMBED = "vlm.model.language_model.embed_tokens.weight"
_HEAD = "vlm.lm_head.weight"
# What training stores whole of the language side; the rest of it are adapters.
_STORED_WHOLE = ("vlm.model.visual.merger.", "vlm.model.visual.deepstack_merger_list.", _EMBED, _HEAD)
_ADAPTED = "vlm.model.language_model.layers."


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded model (fp32, on the CPU) with where it came from and the folder of its tokenizer."""

    model: X2SAM
    path: Path
    tokenizer_folder: Path


def empty_model(config: ModelConfig) -> X2SAM:
    """The model without memory for its weights (meta tensors); its constant tables are real, on the CPU."""
    with torch.device("cpu"), init_empty_weights(include_buffers=False):
        return X2SAM(config).eval()


def load_checkpoint(
    path: Path, *, vlm: str | None = None, config: Path | None = None, tokenizer: Path | None = None
) -> Checkpoint:
    """Loads a trained model.

    path: a training checkpoint (`pytorch_model.bin`, then vlm names the base model), a single `.safetensors` file,
    or a folder holding either. vlm: folder or hub name of the base Qwen3-VL. config: the model's configuration;
    default `config.json` beside the checkpoint, else the published sizes. tokenizer: folder; default `tokenizer/`
    beside the checkpoint, else the base folder.

    Raises CheckpointError naming every missing, unexpected and mis-shaped tensor at once; ConfigError.
    """
    file = _checkpoint_file(path)
    base = None if vlm is None else base_folder(vlm)
    tensors = read_tensor_file(file)
    resolved = _fit_vocabulary(_read_config(file.parent, config, base), tensors)
    model = empty_model(resolved)
    tensors = _without_historic(tensors, model, file)
    complete = _complete(model, tensors, base, file)
    model.load_state_dict({name: value.float() for name, value in complete.items()}, assign=True)
    return Checkpoint(model.requires_grad_(False), file, _tokenizer_folder(file.parent, tokenizer, base))


def training_layout(model: nn.Module, rank: int) -> Shapes:
    """Names and shapes of every tensor that a training checkpoint of this model holds."""
    layout: Shapes = {}
    for name, shape in _shapes(model).items():
        if not name.startswith(_TRAINED):
            layout[name] = shape
        elif name.startswith(_STORED_WHOLE):
            layout[_wrap(name)] = shape
        elif name.startswith(_ADAPTED) and len(shape) == 2:
            down, up = adapter_names(_wrap(name).removesuffix(".weight"))
            layout[down], layout[up] = (rank, shape[1]), (shape[0], rank)
    return layout


def historic_layout(model: X2SAM) -> Shapes:
    """Names and shapes of the tensors that checkpoints from before 2026-06-30 hold besides, and that no forward pass
    ever read: the bias of another kind of class head, and 1 / points of every deformable attention."""
    layout: Shapes = {"segmentor.class_predictor.cls_bias": (1,)}
    for number, layer in enumerate(model.segmentor.pixel_decoder.encoder.layers):
        points = layer.self_attn.n_levels * layer.self_attn.n_points
        layout[f"segmentor.pixel_decoder.encoder.layers.{number}.self_attn.n_points_scale"] = (points,)
    return layout


def _without_historic(tensors: dict[str, Tensor], model: X2SAM, file: Path) -> dict[str, Tensor]:
    """One of another shape stays, and is unexpected."""
    known = historic_layout(model)
    found = [name for name, value in tensors.items() if known.get(name) == tuple(value.shape)]
    if found:
        _log.warning("%s: passed over %d tensors that no result depends on: %s.", file, len(found), ", ".join(found))
    return {name: value for name, value in tensors.items() if name not in found}


def _complete(model: X2SAM, tensors: dict[str, Tensor], base: Path | None, file: Path) -> dict[str, Tensor]:
    """All tensors of the model: the file's, adapters merged into the base, the base's for the rest."""
    wanted = _shapes(model)
    if not any(name.startswith(_WRAPPED) for name in tensors):
        whole = _tie(tensors, model)
        _check_fit(whole, wanted, wanted, file)
        return whole
    if base is None:
        raise CheckpointError(
            f"{file}: found a training checkpoint, whose language model holds adapters only; wanted its base model "
            "too. Pass --vlm with the folder or hub name of the base Qwen3-VL."
        )
    rank = adapter_rank(tensors)
    required = training_layout(model, rank or 1)
    if rank is None:
        required = {name: shape for name, shape in required.items() if ".lora_" not in name}
    _check_fit(tensors, required, required | {_wrap(n): s for n, s in wanted.items() if n.startswith(_TRAINED)}, file)
    return _merge(model, tensors, base)


def _merge(model: X2SAM, tensors: dict[str, Tensor], base: Path) -> dict[str, Tensor]:
    wanted = _shapes(model)
    under = {f"{_TRAINED}{name}": value for name, value in read_tensor_folder(base).items()}
    stored = {_unwrap(name): value for name, value in tensors.items() if ".lora_" not in name}
    # What the checkpoint stores whole replaces the base's, whose tables may have other sizes.
    complete = {name: value for name, value in under.items() if name not in stored and name != _HEAD} | stored
    _check_fit(complete, wanted, wanted, base)
    for name in wanted:
        down, up = adapter_names(_wrap(name).removesuffix(".weight"))
        if down in tensors:
            complete[name] = Adapter(tensors[down], tensors[up]).merge(complete[name], model.config.lora_scale)
    return complete


def _check_fit(found: Mapping[str, Tensor], required: Shapes, allowed: Shapes, source: Path) -> None:
    missing = sorted(set(required) - set(found))
    unexpected = sorted(set(found) - set(allowed))
    misshaped = [
        f"{name}: found {tuple(found[name].shape)}, wanted {shape}"
        for name, shape in sorted(allowed.items())
        if name in found and tuple(found[name].shape) != shape
    ]
    if missing or unexpected or misshaped:
        listing = [f"  missing: {n}" for n in missing] + [
            f"  unexpected: {n} {tuple(found[n].shape)}" for n in unexpected
        ]
        listing += [f"  mis-shaped: {line}" for line in misshaped]
        raise CheckpointError(
            f"{source} does not fit the model ({len(missing)} missing, {len(unexpected)} unexpected, "
            f"{len(misshaped)} mis-shaped tensors). Pass the configuration it was trained with, or a complete file:\n"
            + "\n".join(listing)
        )


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _wrap(name: str) -> str:
    return _WRAPPED + name.removeprefix(_TRAINED)


def _unwrap(name: str) -> str:
    return _TRAINED + name.removeprefix(_WRAPPED) if name.startswith(_WRAPPED) else name


def _tie(tensors: dict[str, Tensor], model: X2SAM) -> dict[str, Tensor]:
    """A file of a tied model may leave out the output table."""
    if _HEAD not in tensors and _EMBED in tensors and model.config.language.get("tie_word_embeddings", False):
        return tensors | {_HEAD: tensors[_EMBED]}
    return tensors


def _fit_vocabulary(config: ModelConfig, tensors: dict[str, Tensor]) -> ModelConfig:
    """Takes the rows of the embedding table from the checkpoint: training adds tokens, the config does not know."""
    table = next((tensors[name] for name in (_EMBED, _wrap(_EMBED)) if name in tensors), None)
    if table is None:
        return config
    text = {**config.language["text_config"], "vocab_size": table.shape[0]}
    return replace(config, language={**config.language, "text_config": text})


def _checkpoint_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    names = ("checkpoint.safetensors", "model.safetensors", "pytorch_model.bin")
    found = [path / name for name in names if (path / name).is_file()]
    if len(found) != 1:
        raise CheckpointError(f"{path}: found {[f.name for f in found]} in the folder, wanted exactly one of {names}.")
    return found[0]


def _read_config(folder: Path, config: Path | None, base: Path | None) -> ModelConfig:
    beside = folder / "config.json"
    source = config or (beside if beside.is_file() else None)
    if source is None:
        resolved = PUBLISHED
    else:
        data = read_json(source)
        resolved = read_published_config(data) if is_published_config(data) else ModelConfig.from_json(data)
    if base is not None:
        resolved = read_budgets(replace(resolved, language=read_json(base / "config.json")), base)
    return fit_budgets(resolved)


def _tokenizer_folder(folder: Path, tokenizer: Path | None, base: Path | None) -> Path:
    candidates = [c for c in (tokenizer, folder / "tokenizer", folder, base) if c is not None]
    for candidate in candidates if tokenizer is None else [tokenizer]:
        if (candidate / "tokenizer.json").is_file():
            return candidate
    looked = ", ".join(str(c) for c in candidates)
    raise CheckpointError(f"No tokenizer.json found in {looked}. Pass --tokenizer with the tokenizer's folder.")
