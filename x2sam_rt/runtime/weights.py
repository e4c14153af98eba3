"""Which weights a bundle's parts need, and how they come back into an empty model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from x2sam_rt.errors import BundleError
from x2sam_rt.model.checkpoint.files import read_tensor_file
from x2sam_rt.model.checkpoint.loading import empty_model
from x2sam_rt.model.quantization import quantize_language
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import Manifest
from x2sam_rt.runtime.device import CPU
from x2sam_rt.runtime.engines import STAGE_WEIGHTS, find_backend

# The language side is always PyTorch. The stages' weights are what the torch backend runs and what verification
# compares other engines with.
LANGUAGE_WEIGHTS = "language/model.safetensors"
_LANGUAGE_PARTS = ("vlm.model.language_model.", "vlm.lm_head.", "extra_projector.", "mlm_projector.", "bg_embeds.")
_HEAD, _EMBED = "vlm.lm_head.weight", "vlm.model.language_model.embed_tokens.weight"


def split_weights(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(language side, stages). A tied output table is left out: it is the embedding table."""
    weights = dict(model.state_dict())
    if weights[_HEAD].data_ptr() == weights[_EMBED].data_ptr():
        del weights[_HEAD]
    language = {name: value.contiguous() for name, value in weights.items() if name.startswith(_LANGUAGE_PARTS)}
    return language, {name: value.contiguous() for name, value in weights.items() if name not in language}


def load_model(manifest: Manifest, folder: Path, device: torch.device = CPU) -> X2SAM:
    """What a bundle's backend needs of the PyTorch model. Raises EngineError for a backend that is not there,
    MissingExtra for rounded weights without what reads them."""
    load = load_reference_model if find_backend(manifest.backend).runs_weights else load_language_model
    model = load(manifest, folder, device)
    quantize_language(model, manifest.language_weights)
    return model


def load_language_model(manifest: Manifest, folder: Path, device: torch.device = CPU) -> X2SAM:
    """The model of a bundle with the language side's weights only, not rounded; the stages have none."""
    model = empty_model(manifest.model)
    _move_tables(model, device)
    _load(model, folder / LANGUAGE_WEIGHTS, _language_names(model), device)
    return model


def load_reference_model(manifest: Manifest, folder: Path, device: torch.device = CPU) -> X2SAM:
    """The whole PyTorch model of a bundle, its weights not rounded."""
    model = load_language_model(manifest, folder, device)
    _load(model, folder / STAGE_WEIGHTS, set(model.state_dict()) - _language_names(model), device)
    return model


def _language_names(model: nn.Module) -> set[str]:
    return {name for name in model.state_dict() if name.startswith(_LANGUAGE_PARTS)}


def _move_tables(model: nn.Module, device: torch.device) -> None:
    """Positions and rotary angles; weights come later, straight to their place."""
    for module in model.modules():
        for name, table in module.named_buffers(recurse=False):
            setattr(module, name, table.to(device))


def _load(model: nn.Module, path: Path, wanted: set[str], device: torch.device) -> None:
    """Puts a file's tensors into an empty model. Raises BundleError unless they are exactly the wanted ones."""
    tensors = read_tensor_file(path)
    if _HEAD in wanted and _HEAD not in tensors and _EMBED in tensors:
        tensors[_HEAD] = tensors[_EMBED]
    if set(tensors) != wanted:
        differ = sorted(set(tensors) ^ wanted)
        raise BundleError(f"{path}: {len(differ)} tensors are missing or foreign ({differ[:5]} …). Export again.")
    placed = {name: tensor.to(device) for name, tensor in tensors.items()}
    model.load_state_dict(placed, strict=False, assign=True)
    model.requires_grad_(False)
