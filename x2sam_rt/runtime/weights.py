"""Which weights a bundle's parts need, and how they come back into an empty model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from x2sam_rt.documents import shown
from x2sam_rt.errors import BundleError
from x2sam_rt.model.checkpoint.files import read_safetensors
from x2sam_rt.model.checkpoint.loading import check_extent, empty_model
from x2sam_rt.model.checkpoint.stored import StoredWeight, StoredWeights, fill
from x2sam_rt.model.precision import dtype_of
from x2sam_rt.model.quantization import quantize_language
from x2sam_rt.model.stages import stage_module, stage_weights
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import LANGUAGE, BundleFiles, Manifest
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


def load_model(manifest: Manifest, files: BundleFiles, device: torch.device = CPU) -> X2SAM:
    """What a bundle's backend needs of the PyTorch model. Raises EngineError for a backend that is not there,
    MissingExtra for rounded weights without what reads them; as `load_language_model`."""
    load = load_reference_model if find_backend(manifest.backend).runs_weights else load_language_model
    model = load(manifest, files, device)
    quantize_language(model, manifest.language_weights)
    return model


def load_language_model(manifest: Manifest, files: BundleFiles, device: torch.device = CPU) -> X2SAM:
    """The model of a bundle with the language side's weights only, not rounded; the stages have none.

    Raises BundleError for weights that are not exactly the model's, in the manifest's precision.
    """
    language, stages = _language(files), _stored(files, STAGE_WEIGHTS)
    check_extent(manifest.model, [*language.values(), *stages.values()], files.folder)
    model = empty_model(manifest.model)
    _move_tables(model, device)
    _load(model, language, language_names(model.state_dict()), dtype_of(manifest.language_precision), files, device)
    return model


def load_reference_model(manifest: Manifest, files: BundleFiles, device: torch.device = CPU) -> X2SAM:
    """The whole PyTorch model of a bundle, its weights not rounded. Raises as `load_language_model`."""
    model = load_language_model(manifest, files, device)
    names, tensors = set(model.state_dict()), _stored(files, STAGE_WEIGHTS)
    _load(model, tensors, names - language_names(names), dtype_of(manifest.precision), files, device)
    return model


def load_reference_stage(
    manifest: Manifest, files: BundleFiles, stage: str, dtype: torch.dtype, device: torch.device = CPU
) -> nn.Module:
    """One stage of a bundle in PyTorch, with the bundle's weights; nothing else takes memory. Raises BundleError."""
    tensors = _stored(files, STAGE_WEIGHTS)
    model = empty_model(manifest.model)
    names = stage_weights(model, stage)
    _check(
        model,
        {name: tensors[name] for name in names if name in tensors},
        set(names),
        dtype_of(manifest.precision),
        files,
    )
    fill(model, {name: StoredWeight(tensors[name]) for name in names}, names, dtype)
    return stage_module(model, stage).to(device)


def _language(files: BundleFiles) -> dict[str, Tensor]:
    """Of all shards; which there are, the manifest says."""
    tensors: dict[str, Tensor] = {}
    for shard in files.below(LANGUAGE, ".safetensors"):
        found = _stored(files, shard)
        if twice := tensors.keys() & found.keys():
            raise BundleError(f"{files.folder / shard}: {shown(min(twice))} is in another shard too. Export again.")
        tensors |= found
    return tensors


def _stored(files: BundleFiles, name: str) -> dict[str, Tensor]:
    """Mapped from the file that was checked."""
    with files.open(name) as path:
        return read_safetensors(path, str(files.folder / name))


def _move_tables(model: nn.Module, device: torch.device) -> None:
    """Positions and rotary angles; weights come later, straight to their place."""
    for module in model.modules():
        for name, table in module.named_buffers(recurse=False):
            setattr(module, name, table.to(device))


def _load(
    model: nn.Module,
    tensors: dict[str, Tensor],
    wanted: set[str],
    dtype: torch.dtype,
    files: BundleFiles,
    device: torch.device,
) -> None:
    """Puts a file's tensors into an empty model. Raises BundleError unless they are exactly the wanted ones."""
    if _HEAD in wanted and _HEAD not in tensors and _EMBED in tensors:
        tensors[_HEAD] = tensors[_EMBED]
    _check(model, tensors, wanted, dtype, files)
    placed = {name: tensor.to(device) for name, tensor in tensors.items()}
    model.load_state_dict(placed, strict=False, assign=True)
    model.requires_grad_(False)


def _check(
    model: nn.Module, tensors: Mapping[str, Tensor], wanted: set[str], dtype: torch.dtype, files: BundleFiles
) -> None:
    if set(tensors) != wanted:
        differ = sorted(set(tensors) ^ wanted)
        raise BundleError(
            f"{files.folder}: {len(differ)} tensors are missing or foreign ({shown(differ)}). Export again."
        )
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if name in wanted}
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name] or tensor.dtype != dtype:
            raise BundleError(
                f"{files.folder}: {name} is {tensor.dtype} {tuple(tensor.shape)}, wanted {dtype} {shapes[name]}. "
                "Export again."
            )
