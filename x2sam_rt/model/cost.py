"""What a stage computes, moves and holds, counted from its module on tensors that have shapes and no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.checkpoint.loading import empty_model
from x2sam_rt.model.stage_contract import Sizes
from x2sam_rt.model.stages import EXAMPLE_SIZES, STAGES, stage_contract, stage_module
from x2sam_rt.model.x2sam import X2SAM

_CPU = torch.device("cpu")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class StageCost:
    """Of one call of the stage as the model defines it; engines may do with fewer products.

    flop: of matrix products, convolutions, attention and sampling, a multiplication and an addition counting as two;
    norms, activations and softmax are left out. weight_bytes: the stage's own weights, as far as it reads them.
    tensor_bytes: what it takes and gives. Both cross the memory's border at least once. working_bytes: most that is
    held at once besides, as PyTorch runs the module, its results included: they are copied to where they belong. What
    a kernel needs within is not counted.
    """

    flop: int
    weight_bytes: int
    tensor_bytes: int
    working_bytes: int

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
    """model: without weights."""
    contract, module = stage_contract(name, model.config, dtype), stage_module(model, name)
    with FakeTensorMode():
        weights, tables = _stand_ins(module, dtype)
        inputs, outputs = ([spec.zeros(_CPU, **sizes) for spec in side] for side in (contract.inputs, contract.outputs))
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_kernels()) as counter, _Watch() as watch:
            functional_call(module, {**weights, **tables}, tuple(inputs))
    return StageCost(
        flop=counter.get_total_flops(),
        weight_bytes=sum(weight.nbytes for weight in weights.values() if id(weight) in watch.read),
        tensor_bytes=sum(tensor.nbytes for tensor in (*inputs, *outputs)),
        working_bytes=watch.peak_bytes,
    )


def _stand_ins(module: nn.Module, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A module's weights, in this dtype, and its constant tables, in their own, by name."""
    weights = {name: torch.empty(weight.shape, dtype=dtype) for name, weight in module.named_parameters()}
    return weights, {name: torch.empty(table.shape, dtype=table.dtype) for name, table in module.named_buffers()}


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """read: ids of the tensors that operations took: a model that leaves out a scale leaves out its weights.
    peak_bytes: most that what they made has held at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read: set[int] = set()
        self.peak_bytes = 0
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.read |= {id(tensor) for tensor in taken}
        given = func(*args, **(kwargs or {}))
        self._hold(taken, [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)])
        return given

    def _hold(self, taken: list[Tensor], given: list[Tensor]) -> None:
        views = {tensor.untyped_storage()._cdata for tensor in taken}
        self._held = {key: held for key, held in self._held.items() if not held[0].expired()}  # type: ignore[no-untyped-call]
        for storage in (tensor.untyped_storage() for tensor in given):
            if storage._cdata not in views:
                self._held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._held.values()))


def _kernels() -> dict[Any, Callable[..., int]]:
    kernels = torch.ops.x2sam_rt
    return {
        kernels.self_attention: _self_attention,
        kernels.slot_attention: _slot_attention,
        kernels.deformable_attention: _deformable_attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention,
    }


def _fused_attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


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
