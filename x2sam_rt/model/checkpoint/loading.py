"""From trained files to a model: strict about names and shapes, adapters merged, nothing unpickled."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from x2sam_rt.config import ModelConfig
from x2sam_rt.documents import read_json
from x2sam_rt.errors import CheckpointError, ConfigError
from x2sam_rt.model.checkpoint.adapters import Adapter, adapter_names, adapter_rank
from x2sam_rt.model.checkpoint.files import base_folder, checkpoint_file, read_tensor_file, read_tensor_folder
from x2sam_rt.model.checkpoint.published import (
    PUBLISHED,
    fit_budgets,
    is_published_config,
    read_budgets,
    read_published_config,
)
from x2sam_rt.model.checkpoint.sam2 import read_sam2_encoder
from x2sam_rt.model.checkpoint.stored import StoredWeight, StoredWeights, fill
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
_ADAPTER = ".lora_"
# How the adapters' library names a wrapped module's own tensors, in a dictionary of the full model.
_FROZEN, _TRAINED_COPY, _FROZEN_COPY = ".base_layer.", ".modules_to_save.default.", ".original_module."


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that fits its model; its weights are mapped from disk until they are asked for.

    weights: every weight of the model, by name. path: the file, or the index of its shards.
    """

    config: ModelConfig
    weights: StoredWeights
    path: Path
    tokenizer_folder: Path

    @cached_property
    def model(self) -> X2SAM:
        """All of it in fp32, on the CPU; kept."""
        return self.part(self.weights, torch.float32)

    def part(self, names: Iterable[str], dtype: torch.dtype) -> X2SAM:
        """The model with these weights only; the others have no memory."""
        model = empty_model(self.config)
        fill(model, self.weights, names, dtype)
        return model


def empty_model(config: ModelConfig) -> X2SAM:
    """The model without memory for its weights (meta tensors); its constant tables are real, on the CPU."""
    with torch.device("cpu"), init_empty_weights(include_buffers=False):
        return X2SAM(config).eval()


def load_checkpoint(
    path: Path | str,
    *,
    vlm: str | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    sam2: Path | None = None,
) -> Checkpoint:
    """Opens a trained model. Names and shapes are checked here; numbers are read when they are needed.

    path: a training checkpoint (`pytorch_model.bin`, then vlm names the base model), the full model under the names of
    training (with `base_layer`), a single `.safetensors` file, an index of shards, or a folder or hub name of any of
    these. vlm: folder or hub name of the base Qwen3-VL. config: the model's configuration; default `config.json` beside
    the checkpoint, else the published sizes. tokenizer: folder; default `tokenizer/` beside the checkpoint, else the
    base folder. sam2: an original SAM 2.1 checkpoint, whose image encoder takes the mask encoder's place.

    Raises CheckpointError naming every missing, unexpected and mis-shaped tensor at once; ConfigError.
    """
    file = checkpoint_file(path)
    base = None if vlm is None else base_folder(vlm)
    tensors = _plain_names(read_tensor_file(file))
    under = {} if base is None else read_tensor_folder(base)
    resolved = _fit_vocabulary(_read_config(file.parent, config, base), tensors.found)
    if base is not None or not any(name.startswith(_WRAPPED) for name in tensors.found):
        check_extent(resolved, [*tensors.found.values(), *under.values()], file)
    model = empty_model(resolved)
    encoder = {} if sam2 is None else read_sam2_encoder(sam2, _shapes(model))
    tensors = replace(tensors, found=_without_historic(tensors.found, model, file) | encoder)
    weights = _share_table(_complete(model, tensors, base, under, file))
    return Checkpoint(resolved, weights, file, _tokenizer_folder(file.parent, tokenizer, base))


@dataclass(frozen=True, eq=False)
class _Tensors:
    """found: by the names of a training checkpoint, or of a single file. full: what is adapted has the name that the
    adapters' library gives it where it holds the wrapped language model whole."""

    found: dict[str, Tensor]
    full: bool


def _plain_names(tensors: dict[str, Tensor]) -> _Tensors:
    """What a dictionary of the full model names after the adapters' wrappers gets the names of a training checkpoint;
    of a table that was trained whole, the trained copy counts."""
    full = any(_FROZEN in name for name in tensors)
    found = {
        name.replace(_FROZEN, ".").replace(_TRAINED_COPY, "."): value
        for name, value in tensors.items()
        if _FROZEN_COPY not in name
    }
    return _Tensors(found, full)


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


def _complete(
    model: X2SAM, tensors: _Tensors, base: Path | None, under: dict[str, Tensor], file: Path
) -> dict[str, StoredWeight]:
    """All weights of the model: the file's, and the base's (`under`) for the rest, with the adapters beside them."""
    found, wanted = tensors.found, _shapes(model)
    if not any(name.startswith(_WRAPPED) for name in found):
        whole = _tie(found, model)
        _check_fit(whole, wanted, wanted, file)
        return {name: StoredWeight(value) for name, value in whole.items()}
    if tensors.full or _holds_whole(model, found):
        return _complete_full(model, found, file)
    if base is None:
        raise CheckpointError(
            f"{file}: found a training checkpoint, whose language model holds adapters only; wanted its base model "
            "too. Pass --vlm with the folder or hub name of the base Qwen3-VL."
        )
    required = _required(model, found)
    _check_fit(found, required, required | {_wrap(n): s for n, s in wanted.items() if n.startswith(_TRAINED)}, file)
    return _on_base(model, found, under, base)


def _holds_whole(model: X2SAM, found: Mapping[str, Tensor]) -> bool:
    """Whether nothing of the wrapped language model is wanted of a base, as in files of the library's first versions,
    which had no name of their own for what is adapted."""
    wrapped = {_wrap(name) for name in _shapes(model) if name.startswith(_TRAINED)}
    return wrapped - found.keys() <= ({_wrap(_HEAD)} if _tied(model) else set())


def _required(model: X2SAM, found: Mapping[str, Tensor]) -> Shapes:
    rank = adapter_rank(found)
    layout = training_layout(model, rank or 1)
    return layout if rank is not None else {name: shape for name, shape in layout.items() if _ADAPTER not in name}


def _complete_full(model: X2SAM, found: dict[str, Tensor], file: Path) -> dict[str, StoredWeight]:
    """From a dictionary that holds the wrapped language model whole, adapters beside what they adapt."""
    embed, head = _wrap(_EMBED), _wrap(_HEAD)
    if _tied(model) and embed in found:
        found = {head: found[embed]} | found
    wanted = {_wrap(name) if name.startswith(_TRAINED) else name: shape for name, shape in _shapes(model).items()}
    adapters = {name: shape for name, shape in _required(model, found).items() if _ADAPTER in name}
    _check_fit(found, wanted | adapters, wanted | adapters, file)
    return _with_adapters(model, {_unwrap(name): value for name, value in found.items()}, found)


def _on_base(model: X2SAM, found: dict[str, Tensor], under: dict[str, Tensor], base: Path) -> dict[str, StoredWeight]:
    wanted = _shapes(model)
    under = {f"{_TRAINED}{name}": value for name, value in under.items()}
    stored = {_unwrap(name): value for name, value in found.items() if _ADAPTER not in name}
    # What the checkpoint stores whole replaces the base's, whose tables may have other sizes.
    complete = {name: value for name, value in under.items() if name not in stored and name != _HEAD} | stored
    _check_fit(complete, wanted, wanted, base)
    return _with_adapters(model, complete, found)


def _with_adapters(
    model: X2SAM, stored: Mapping[str, Tensor], adapters: Mapping[str, Tensor]
) -> dict[str, StoredWeight]:
    weights = {}
    for name in _shapes(model):
        down, up = adapter_names(_wrap(name).removesuffix(".weight"))
        adapter = Adapter(adapters[down], adapters[up]) if down in adapters else None
        weights[name] = StoredWeight(stored[name], adapter, model.config.lora_scale)
    return weights


def _share_table(weights: dict[str, StoredWeight]) -> dict[str, StoredWeight]:
    """An output table that is the embedding table becomes one weight with it, so that nothing holds it twice."""
    embed, head = weights[_EMBED].stored, weights[_HEAD].stored
    if embed.data_ptr() == head.data_ptr() or (embed.dtype == head.dtype and torch.equal(embed, head)):
        return {**weights, _HEAD: weights[_EMBED]}
    return weights


# A model of as many weights is built in a second, and as many numbers are no burden, whatever a file holds.
_ANY_TENSORS, _ANY_NUMBERS = 1536, 10**8


def check_extent(config: ModelConfig, tensors: Collection[Tensor], source: Path) -> None:
    """Before a model is built: raises ConfigError when a configuration describes far more than was stored."""
    held = sum(tensor.numel() for tensor in tensors)
    if config.least_tensors > max(len(tensors), _ANY_TENSORS) or config.least_numbers > max(held, _ANY_NUMBERS):
        raise ConfigError(
            f"{source}: the configuration describes a model of more than {config.least_numbers:,} numbers in "
            f"{config.least_tensors:,} tensors; found {held:,} in {len(tensors):,}. Pass the one it was trained with."
        )


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
    if _HEAD not in tensors and _EMBED in tensors and _tied(model):
        return tensors | {_HEAD: tensors[_EMBED]}
    return tensors


def _tied(model: X2SAM) -> bool:
    return bool(model.config.language.get("tie_word_embeddings", False))


def _fit_vocabulary(config: ModelConfig, tensors: dict[str, Tensor]) -> ModelConfig:
    """Takes the rows of the embedding table from the checkpoint: training adds tokens, the config does not know."""
    table = next((tensors[name] for name in (_EMBED, _wrap(_EMBED)) if name in tensors), None)
    if table is None or table.ndim != 2:
        return config
    text = {**config.language["text_config"], "vocab_size": table.shape[0]}
    return replace(config, language={**config.language, "text_config": text})


def _read_config(folder: Path, config: Path | None, base: Path | None) -> ModelConfig:
    beside = folder / "config.json"
    source = config or (beside if os.path.lexists(beside) else None)  # whatever it is: nothing takes its place
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
