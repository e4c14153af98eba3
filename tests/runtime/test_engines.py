"""The table of backends: what a row promises holds, and a new backend is one row and one file."""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from x2sam_rt.errors import EngineError
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.export.engines import build_engines
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.stage_contract import StageContract
from x2sam_rt.model.stages import example_inputs
from x2sam_rt.runtime import engines
from x2sam_rt.runtime.bundle import BundleFiles, load_manifest
from x2sam_rt.runtime.engines import BACKENDS, Backend, check_precision, check_targets, find_backend
from x2sam_rt.runtime.engines.engine import BackendModule, Engine, Engines, StageToBuild, backend_module, run_once
from x2sam_rt.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine
from x2sam_rt.runtime.runtime import Runtime


def parameters(function: object) -> list[str]:
    assert callable(function)
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("row", BACKENDS.values(), ids=BACKENDS)
def test_a_rows_file_holds_what_it_must(row: Backend) -> None:
    module = backend_module(row)
    assert parameters(backend_module(row, row.builder).build) == parameters(BackendModule.build)
    assert parameters(module.load) == parameters(BackendModule.load)


def test_names_and_precisions_that_are_not_there() -> None:
    with pytest.raises(EngineError, match="no backend 'abacus'"):
        find_backend("abacus")
    with pytest.raises(
        EngineError,
        match=r"onnxruntime computes in fp32 or int8; found 'bf16'\. Export with --engine torch or tensorrt",
    ):
        check_precision("onnxruntime", "bf16")
    with pytest.raises(EngineError, match=r"found 'fp4'\. No backend here computes in it"):
        check_precision("torch", "fp4")


def test_targets_are_for_backends_that_build_for_gpus() -> None:
    check_targets("tensorrt", ("sm86",))
    check_targets("torch", ())
    with pytest.raises(EngineError, match=r"Engines of torch .* found targets sm86.*--engine tensorrt"):
        check_targets("torch", ("sm86",))


def test_a_backend_without_its_libraries_says_what_to_install() -> None:
    row = replace(BACKENDS["torch"], name="abacus", module="x2sam_rt_no_such_library", packages=("beads", "rods"))
    with pytest.raises(EngineError, match=r"abacus cannot run here: .*no_such_library.*Install beads and rods"):
        backend_module(row)


@pytest.fixture(scope="module", params=[name for name, row in BACKENDS.items() if not row.needs_gpu])
def built(request: pytest.FixtureRequest, toy: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Engines:
    return build_engines(toy.model, request.param, tmp_path_factory.mktemp(request.param))


def test_binding_checks_and_running_repeats(built: Engines) -> None:
    engine = built.memory_encoder
    inputs = example_inputs(engine.contract)
    outputs = engine.contract.outputs_for(inputs)
    with pytest.raises(EngineError, match="memory_encoder, tensor slot: found float64"):
        engine.bind(inputs, {"slot": outputs["slot"].double()})
    with pytest.raises(EngineError, match="memory_encoder, tensor low"):
        engine.bind({**inputs, "low": inputs["low"][..., 1:]}, outputs)
    run = engine.bind(inputs, outputs)
    assert outputs["slot"].isnan().all()
    run()
    first = outputs["slot"].clone()
    torch.testing.assert_close(first, run_once(engine, inputs)["slot"], rtol=0, atol=0)
    inputs["low"].mul_(2)  # what is bound is the memory, not its value
    run()
    assert not torch.allclose(outputs["slot"], first, atol=1e-3)
    torch.testing.assert_close(outputs["slot"], run_once(engine, inputs)["slot"], rtol=0, atol=0)


def test_what_is_bound_keeps_its_tensors_alive(built: Engines) -> None:
    engine = built.memory_encoder
    inputs, slot = example_inputs(engine.contract), engine.contract.output("slot").zeros()
    run = engine.bind({name: tensor.clone() for name, tensor in inputs.items()}, {"slot": slot})
    taken = [torch.full_like(tensor, 7) for tensor in inputs.values() for _ in range(3)]  # would reuse freed memory
    run()
    assert len(taken) == 3 * len(inputs)
    torch.testing.assert_close(slot, run_once(engine, inputs)["slot"], rtol=0, atol=0)


def one_file() -> ModuleType:
    """A backend's file, as somebody would write it."""

    def build(stage: StageToBuild, path: Path) -> None:
        stage.write_onnx(path)

    def load(contract: StageContract, files: BundleFiles, name: str, module: nn.Module, device: torch.device) -> Engine:
        # At export the module has its weights; in a bundle of this backend nobody needs them.
        assert all(weight.is_meta for weight in module.parameters()) == ("stages/weights.safetensors" in files)
        with files.open(name) as path:
            return OnnxRuntimeEngine(contract, path, device)

    module = ModuleType("one_file")
    module.build, module.load = build, load  # type: ignore[attr-defined]
    return module


def test_a_new_backend_is_one_row_and_one_file(
    toy: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Backend("graph", "one_file", ("fp32",), "stages/{stage}.graph", ("numpy",))
    monkeypatch.setitem(sys.modules, "one_file", one_file())
    monkeypatch.setitem(engines.BACKENDS, "graph", row)
    export_bundle(ExportPlan(toy, "graph"), tmp_path / "bundle")
    assert (tmp_path / "bundle/stages/mask_decoder.graph").is_file()
    manifest = load_manifest(tmp_path / "bundle")
    assert (manifest.backend, set(manifest.environment.packages)) == ("graph", {"x2sam-rt", "torch", "numpy"})
    with Runtime.load(tmp_path / "bundle") as runtime, runtime.stream("the red circle") as session:
        frame = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8)
        assert [session.step(frame).index for _ in range(3)] == [0, 1, 2]
