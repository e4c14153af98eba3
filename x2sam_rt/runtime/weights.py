"""Which weights a bundle's parts need, and how they come back into an empty model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from x2sam_rt.errors import BundleError
from x2sam_rt.model.checkpoint.files import read_tensor_file, read_tensor_folder
from x2sam_rt.model.checkpoint.loading import empty_model
from x2sam_rt.model.checkpoint.stored import StoredWeight, StoredWeights, fill
from x2sam_rt.model.quantization import quantize_language
from x2sam_rt.model.stages import stage_module, stage_weights
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import LANGUAGE, Manifest
from x2sam_rt.runtime.device import CPU
from x2sam_rt.runtime.engines import STAGE_WEIGHTS, find_backend

# The language side is always PyTorch. The stages' weights are what the torch backend runs and what verification
# compares other engines with.
_LANGUAGE_PARTS = ("vlm.model.language_model.", "vlm.lm_head.", "extra_projector.", "mlm_projector.", "bg_embeds.")
_HEAD, _EMBED = "vlm.lm_head.weight", "vlm.model.language_model.embed_tokens.weight"


def language_names(weights: Iterable[str]) -> set[str]:
    """Those of the language side; the others are the stages'."""
    return {name for name in weights if name.startswith(_LANGUAGE_PARTS)}


def without_shared_table(weights: StoredWeights) -> set[str]:
    """Names of what a bundle stores: an output table that is the embedding table is left out."""
    shared = weights[_HEAD] is weights[_EMBED]
    return set(weights) - {_HEAD} if shared else set(weights)


def load_model(manifest: Manifest, folder: Path, device: torch.device = CPU) -> X2SAM:
    """What a bundle's backend needs of the PyTorch model. Raises EngineError for a backend that is not there,
    MissingExtra for rounded weights without what reads them."""
    load = load_reference_model if find_backend(manifest.backend).runs_weights else load_language_model
    model = load(manifest, folder, device)
    quantize_language(model, manifest.language_weights)
    return model


def load_language_model(manifest: Manifest, folder: Path, device: torch.device = CPU) -> X2SAM:
    """The model of a bundle with the language side's weights only, not rounded; the stages have none."""
    model, path = empty_model(manifest.model), folder / LANGUAGE
    _move_tables(model, device)
    _load(model, read_tensor_folder(path), language_names(model.state_dict()), path, device)
    return model


def load_reference_model(manifest: Manifest, folder: Path, device: torch.device = CPU) -> X2SAM:
    """The whole PyTorch model of a bundle, its weights not rounded."""
    model = load_language_model(manifest, folder, device)
    path, names = folder / STAGE_WEIGHTS, set(model.state_dict())
    _load(model, read_tensor_file(path), names - language_names(names), path, device)
    return model


def load_reference_stage(
    manifest: Manifest, folder: Path, stage: str, dtype: torch.dtype, device: torch.device = CPU
) -> nn.Module:
    """One stage of a bundle in PyTorch, with the bundle's weights; nothing else takes memory."""
    model, path = empty_model(manifest.model), folder / STAGE_WEIGHTS
    tensors, names = read_tensor_file(path), stage_weights(model, stage)
    if missing := sorted(set(names) - set(tensors)):
        raise BundleError(f"{path}: {len(missing)} tensors are missing ({missing[:5]} …). Export again.")
    fill(model, {name: StoredWeight(tensors[name]) for name in names}, names, dtype)
    return stage_module(model, stage).to(device)


def _move_tables(model: nn.Module, device: torch.device) -> None:
    """Positions and rotary angles; weights come later, straight to their place."""
    for module in model.modules():
        for name, table in module.named_buffers(recurse=False):
            setattr(module, name, table.to(device))


def _load(model: nn.Module, tensors: dict[str, Tensor], wanted: set[str], path: Path, device: torch.device) -> None:
    """Puts a file's tensors into an empty model. Raises BundleError unless they are exactly the wanted ones."""
    if _HEAD in wanted and _HEAD not in tensors and _EMBED in tensors:
        tensors[_HEAD] = tensors[_EMBED]
    if set(tensors) != wanted:
        differ = sorted(set(tensors) ^ wanted)
        raise BundleError(f"{path}: {len(differ)} tensors are missing or foreign ({differ[:5]} …). Export again.")
    placed = {name: tensor.to(device) for name, tensor in tensors.items()}
    model.load_state_dict(placed, strict=False, assign=True)
    model.requires_grad_(False)
