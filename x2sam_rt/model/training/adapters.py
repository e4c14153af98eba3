"""Low-rank adapters that learn: fine-tuning the language model without touching its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_rt.errors import CheckpointError, ConfigError, TrainingError
from x2sam_rt.model.checkpoint.adapters import Adapter, adapter_names, adapter_rank
from x2sam_rt.model.checkpoint.loading import empty_model, training_layout
from x2sam_rt.model.x2sam import X2SAM

_LAYERS = "vlm.model.language_model.layers"
# A training checkpoint wraps the language model once for the adapters.
_PLAIN, _WRAPPED = "vlm.", "vlm.base_model.model."


class AdaptedLinear(nn.Module):
    """x · weightᵀ + bias + scale · x · downᵀ · upᵀ. The base is frozen; up starts at zero, so nothing changes yet."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.weight = base.weight.requires_grad_(False)
        self.bias = None if base.bias is None else base.bias.requires_grad_(False)
        self.down = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, in). Returns (…, out)."""
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(F.linear(x, self.down), self.up)

    @property
    def adapter(self) -> Adapter:
        return Adapter(self.down, self.up)


def add_adapters(model: X2SAM, rank: int, alpha: float, generator: torch.Generator | None = None) -> None:
    """Gives every linear layer of the language model an adapter (in place); the visual tower gets none.

    alpha: the adapters are scaled by alpha / rank, which a training checkpoint does not hold: `model.config` takes it
    up, and must be saved beside the checkpoint. generator: draws the initial down projections (on the weights' device).
    The model computes what it did before; only the adapters' tensors are made to learn.

    Raises ConfigError for a rank below 1; TrainingError when the model has adapters already.
    """
    if rank < 1:
        raise ConfigError(f"The adapters' rank is {rank}; it must be 1 or more.")
    if any(True for _ in _adapted(model)):
        raise TrainingError("The model has adapters already; add them once, to a freshly loaded model.")
    linear = [(n, m) for n, m in model.get_submodule(_LAYERS).named_modules() if isinstance(m, nn.Linear)]
    for name, base in linear:
        model.set_submodule(f"{_LAYERS}.{name}", AdaptedLinear(base, rank, alpha / rank, generator))
    model.config = replace(model.config, lora_scale=alpha / rank)


def continue_adapters(model: X2SAM, tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    """Takes the adapters of a training checkpoint apart again, to train them further on the same base.

    model: as loaded from that checkpoint, adapters merged. tensors: the checkpoint's. base: those of the folder of the
    base Qwen3-VL. Raises CheckpointError when the checkpoint has no adapters.
    """
    rank = adapter_rank(dict(tensors))
    if rank is None:
        raise CheckpointError("The checkpoint has no adapters to continue. Add new ones instead.")
    add_adapters(model, rank, model.config.lora_scale * rank)
    with torch.no_grad():
        for name, module in _adapted(model):
            down, up = adapter_names(_wrapped(name))
            module.weight.copy_(base[f"{name}.weight".removeprefix(_PLAIN)])
            module.down.copy_(tensors[down])
            module.up.copy_(tensors[up])


def adapter_tensors(model: X2SAM) -> dict[str, Tensor]:
    """The adapters' tensors under the names a training checkpoint has for them."""
    tensors: dict[str, Tensor] = {}
    for name, module in _adapted(model):
        down, up = adapter_names(_wrapped(name))
        tensors[down], tensors[up] = module.down.detach(), module.up.detach()
    return tensors


def training_state_dict(model: X2SAM) -> dict[str, Tensor]:
    """What a training checkpoint of an adapted model holds: everything but the base language model and visual tower,
    which are unchanged. On the CPU, no two sharing memory, fit for torch.save and safetensors alike.
    `load_checkpoint(…, vlm=base)` makes the same model of it, provided its base is the one the adapters learnt on.

    Raises TrainingError when the model has no adapters.
    """
    tensors = adapter_tensors(model)
    rank = adapter_rank(tensors)
    if rank is None:
        raise TrainingError("The model has no adapters; save its state dict whole.")
    state = model.state_dict()
    for name in training_layout(empty_model(model.config), rank):
        if name not in tensors:
            tensors[name] = state[name.replace(_WRAPPED, _PLAIN, 1)]
    return _storable(tensors)


def merged_state_dict(model: X2SAM) -> dict[str, Tensor]:
    """A whole single-file checkpoint that needs no base: adapters merged into their weights in fp32. Storable as
    `training_state_dict` is.
    """
    state = dict(model.state_dict())
    for name, module in _adapted(model):
        del state[f"{name}.down"], state[f"{name}.up"]
        state[f"{name}.weight"] = module.adapter.merge(module.weight, module.scale).detach()
    return _storable(state)


def _adapted(model: X2SAM) -> Iterator[tuple[str, AdaptedLinear]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, AdaptedLinear))


def _wrapped(name: str) -> str:
    return _WRAPPED + name.removeprefix(_PLAIN)


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    stored: dict[str, Tensor] = {}
    for name, value in tensors.items():
        plain = value.detach().cpu().contiguous()
        # A tied output table is stored once more: a checkpoint holds both names.
        stored[name] = plain.clone() if plain.data_ptr() in seen else plain
        seen.add(plain.data_ptr())
    return stored
