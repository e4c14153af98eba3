"""What a stage declares is what its module takes and gives; and tensors that do not fit are named."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch

from x2sam_rt.errors import EngineError
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.precision import cast_weights
from x2sam_rt.model.stage_contract import StageContract, TensorSpec
from x2sam_rt.model.stages import EXAMPLE_SIZES, STAGES, example_inputs, stage_contract, stage_module

CONTRACT = StageContract(
    "mixer",
    (TensorSpec("maps", (2, "4*blocks"), "float32"), TensorSpec("mask", ("blocks", "blocks"), "bool")),
    (TensorSpec("mixed", ("blocks", 3), "bfloat16"),),
)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_modules_compute_what_they_declare(toy: Checkpoint, name: str, dtype: torch.dtype) -> None:
    module = cast_weights(copy.deepcopy(stage_module(toy.model, name)), dtype)
    contract = stage_contract(name, toy.model.config, dtype)
    assert [spec.name for spec in contract.inputs] == list(inspect.signature(module.forward).parameters)
    with torch.inference_mode():
        computed = module(*example_inputs(contract).values())
    found = [(tuple(v.shape), v.dtype) for v in (computed if isinstance(computed, tuple) else (computed,))]
    assert found == [(spec.sized(EXAMPLE_SIZES), spec.torch_dtype) for spec in contract.outputs]


def mixer_tensors(**changed: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    inputs = {"maps": torch.zeros(2, 12), "mask": torch.ones(3, 3, dtype=torch.bool)}
    outputs = {"mixed": torch.zeros(3, 3, dtype=torch.bfloat16)}
    return {name: changed.get(name, inputs[name]) for name in inputs}, {"mixed": changed.get("mixed", outputs["mixed"])}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"maps": torch.zeros(2, 13)}, r"mixer, tensor maps: found float32 \(2, 13\), wanted .*4\*blocks"),
        ({"maps": torch.zeros(3, 12)}, r"tensor maps: found float32 \(3, 12\)"),
        ({"maps": torch.zeros(12)}, r"tensor maps: found float32 \(12,\)"),
        ({"maps": torch.zeros(2, 12, dtype=torch.float64)}, "tensor maps: found float64"),
        ({"maps": torch.zeros(12, 2).T}, r"tensor maps: found float32 \(2, 12\), not contiguous"),
        ({"mask": torch.ones(3, 2, dtype=torch.bool)}, r"tensor mask: found bool \(3, 2\).*'blocks': 3"),
        ({"mixed": torch.zeros(4, 3, dtype=torch.bfloat16)}, r"tensor mixed: found bfloat16 \(4, 3\)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(changed: dict[str, Any], message: str) -> None:
    CONTRACT.check(*mixer_tensors())
    with pytest.raises(EngineError, match=message):
        CONTRACT.check(*mixer_tensors(**changed))


def test_missing_and_foreign_tensors_are_named() -> None:
    inputs, outputs = mixer_tensors()
    with pytest.raises(EngineError, match=r"mixer: found tensors \['maps'\], wanted \['maps', 'mask'\]"):
        CONTRACT.check({"maps": inputs["maps"]}, outputs)
    with pytest.raises(EngineError, match=r"found tensors \['mixed', 'more'\]"):
        CONTRACT.check(inputs, {**outputs, "more": outputs["mixed"]})


def test_buffers_have_the_sizes_of_the_inputs() -> None:
    inputs, _ = mixer_tensors()
    (mixed,) = CONTRACT.outputs_for(inputs).values()
    assert (tuple(mixed.shape), mixed.dtype) == ((3, 3), torch.bfloat16)
    assert mixed.isnan().all()
    assert CONTRACT.varying == {"blocks"}
    assert [spec.dtype for spec in CONTRACT.widened().inputs + CONTRACT.widened().outputs] == [
        "float32",
        "bool",
        "float32",
    ]
