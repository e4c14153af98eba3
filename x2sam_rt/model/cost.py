"""What a stage computes and moves, counted from its module on tensors that have shapes and no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.checkpoint.loading import empty_model
from x2sam_rt.model.stage_contract import Sizes
from x2sam_rt.model.stages import EXAMPLE_SIZES, STAGES, stage_contract, stage_module
from x2sam_rt.model.x2sam import X2SAM

_META = torch.device("meta")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class StageCost:
    """Of one call of the stage as the model defines it; engines may do with fewer products.

    flop: of matrix products, convolutions, attention and sampling, a multiplication and an addition counting as two;
    norms, activations and softmax are left out. weight_bytes: the stage's own weights, as far as it reads them.
    tensor_bytes: what it takes and gives. Both cross the memory's border at least once.
    """

    flop: int
    weight_bytes: int
    tensor_bytes: int

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.tensor_bytes


def stage_costs(config: ModelConfig, names: Iterable[str], dtype: torch.dtype, sizes: Sizes) -> dict[str, StageCost]:
    """Of stages by name. dtype: of their weights and floating tensors. sizes: of what varies in their contracts. Raises
    KeyError for an unknown stage."""
    model = empty_model(config)
    return {name: _cost(model, name, dtype, sizes) for name in names}


def frame_flop(config: ModelConfig) -> float:
    """Of a frame that finds the memory full, on average: not every frame is remembered, or looks at the memory."""
    memory = config.memory
    stages = [name for name in STAGES if name != "vision_encoder"]  # that one runs when something is asked
    costs = stage_costs(config, stages, torch.float32, {**EXAMPLE_SIZES, "slots": memory.slots})
    looking = 1 if memory.reads == "frames" else memory.every
    turns = {"memory_encoder": memory.every, "memory_attention": looking}
    return sum(cost.flop / turns.get(name, 1) for name, cost in costs.items())


def _cost(model: X2SAM, name: str, dtype: torch.dtype, sizes: Sizes) -> StageCost:
    """model: without weights; becomes one of this dtype."""
    contract = stage_contract(name, model.config, dtype)
    module = stage_module(model, name).to(_META, dtype)
    inputs, outputs = ([spec.zeros(_META, **sizes) for spec in side] for side in (contract.inputs, contract.outputs))
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_kernels()) as counter, _Reading() as reading:
        module(*inputs)
    return StageCost(
        flop=counter.get_total_flops(),
        weight_bytes=sum(weight.nbytes for weight in module.parameters() if id(weight) in reading.read),
        tensor_bytes=sum(tensor.nbytes for tensor in (*inputs, *outputs)),
    )


class _Reading(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which tensors operations take: a model that leaves out a scale leaves out its weights."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.read |= {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))


def _kernels() -> dict[Any, Callable[..., int]]:
    kernels = torch.ops.x2sam_rt
    return {
        kernels.self_attention: _self_attention,
        kernels.slot_attention: _slot_attention,
        kernels.deformable_attention: _deformable_attention,
    }


def _self_attention(query: Shape, key: Shape, value: Shape, backend: str, **_: object) -> int:
    return 4 * prod(query) * key[0]


def _slot_attention(query: Shape, key: Shape, value: Shape, key_shift: Shape, backend: str, **_: object) -> int:
    slots, tokens, _dim = key
    return 4 * prod(query) * slots * tokens + 2 * prod(query) * slots


def _deformable_attention(
    value: Shape, spatial_shapes: list[int], locations: Shape, weights: Shape, backend: str, **_: object
) -> int:
    """Four neighbours of every sample, weighted and summed."""
    return 8 * prod(weights) * value[-1]
