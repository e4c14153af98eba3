"""The engine class on a stand-in for the device, and every name it uses against the real bindings."""

from __future__ import annotations

import ast
import inspect
import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from x2sam_rt.errors import EngineError
from x2sam_rt.model.stage_contract import StageContract, TensorSpec
from x2sam_rt.runtime.engines.tensorrt_build import EngineRecord, SizeRange

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt")

from tensorrt_stand_in import Device

from x2sam_rt.export.tensorrt import builder, network, targets
from x2sam_rt.runtime.bundle import BundleFiles, record_files
from x2sam_rt.runtime.engines import BACKENDS, tensorrt_engine, tensorrt_library
from x2sam_rt.runtime.engines.engine import backend_module, run_once
from x2sam_rt.runtime.engines.tensorrt_engine import TensorRTEngine
from x2sam_rt.runtime.engines.tensorrt_library import MESSAGES, VERSION

NAMES = Path(__file__).parents[2] / "fixtures" / "tensorrt"
CONTRACT = StageContract(
    "stage",
    (TensorSpec("x", ("2*slots", 3), "bfloat16"), TensorSpec("mask", ("2*slots",), "bool")),
    (TensorSpec("sum", (3,), "bfloat16"), TensorSpec("rows", ("2*slots", 3), "float32")),
)
RECORD = EngineRecord(
    library="tensorrt_rtx",
    version=VERSION,
    targets=("sm86", "sm89"),
    sizes={"slots": SizeRange(1, 2, 2)},
    seconds=1.0,
    layers={"bf16": 1},
    attention="fused",
    parity=0.0,
    activation_bytes=None,
    largest_scores_bytes=0,
)


def stage(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    return (x * mask[:, None]).sum(0), x.float() * 2


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A GPU of sm86 whose memory is the CPU's."""
    stand_in = Device(CONTRACT, stage)
    monkeypatch.setattr(tensorrt_engine, "trt", stand_in.bindings())
    monkeypatch.setattr(tensorrt_engine, "_on_gpu", lambda tensor: True)
    monkeypatch.setattr(tensorrt_engine, "_current_stream", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: stand_in.calls.append("empty cache"))
    return stand_in


@pytest.fixture
def engine(device: Device, tmp_path: Path) -> TensorRTEngine:
    return open_engine(tmp_path)


def open_engine(
    folder: Path,
    record: EngineRecord = RECORD,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> TensorRTEngine:
    path = folder / "stage.engine"
    path.write_bytes(b"plan")
    record.save(path)
    files = BundleFiles(folder, record_files(folder))
    engine = backend_module(BACKENDS["tensorrt"]).load(CONTRACT, files, path.name, torch.nn.Identity(), device)
    assert isinstance(engine, TensorRTEngine)
    return engine


def inputs(slots: int) -> dict[str, Tensor]:
    rows = 2 * slots
    return {"x": torch.arange(rows * 3, dtype=torch.bfloat16).view(rows, 3), "mask": torch.arange(rows) % 2 == 0}


def assert_ran(given: dict[str, Tensor], got: dict[str, Tensor]) -> None:
    for tensor, wanted in zip(got.values(), stage(*given.values()), strict=True):
        torch.testing.assert_close(tensor, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("slots", [1, 2])
def test_tensors_are_read_and_written_where_they_lie(engine: TensorRTEngine, device: Device, slots: int) -> None:
    given = inputs(slots)
    got = CONTRACT.outputs_for(given)
    run = engine.bind(given, got)
    assert device.calls == ["deserialize 4"]
    for _ in range(2):
        run()
        assert_ran(given, got)
        given["x"].mul_(2)
    assert device.calls[1:] == ["execute on 7"] * 2
    assert device.contexts[0]._addresses == {name: tensor.data_ptr() for name, tensor in (given | got).items()}


def test_tensors_on_the_cpu_go_through_buffers(
    engine: TensorRTEngine, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_engine, "_on_gpu", lambda tensor: False)
    given = inputs(2)
    got = CONTRACT.outputs_for(given)
    run = engine.bind(given, got)
    for _ in range(2):
        run()
        assert_ran(given, got)
        given["x"].mul_(2)
    assert not set(device.contexts[0]._addresses.values()) & {t.data_ptr() for t in (given | got).values()}


class Current:
    """In place of torch.cuda.device."""

    entered: list[torch.device]

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> None:
        Current.entered.append(self._device)

    def __exit__(self, *_: object) -> None: ...


def test_the_chosen_gpu_counts_and_not_the_current_one(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    of = {first: (9, 0), second: (8, 6)}
    Current.entered = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", of.__getitem__)
    monkeypatch.setattr(torch.cuda, "device", Current)
    monkeypatch.setattr(tensorrt_engine._Scratch, "take", lambda self, stream, size: torch.empty(size))
    with pytest.raises(EngineError, match=r"sm86, sm89; cuda:0 is a card \(sm90\)"):
        open_engine(tmp_path, device=first)
    given = inputs(1)
    got = CONTRACT.outputs_for(given)
    open_engine(tmp_path, device=second).bind(given, got)()
    assert_ran(given, got)
    assert Current.entered == [second] * 3, "loaded, bound and run"


def test_sessions_do_not_meet(engine: TensorRTEngine, device: Device) -> None:
    """What one binds leaves what another bound as it was."""
    first, second = inputs(2), inputs(1)
    second["x"] += 1
    outputs = [CONTRACT.outputs_for(given) for given in (first, second)]
    runs = [engine.bind(given, got) for given, got in zip((first, second), outputs, strict=True)]
    for run in (*runs, *runs):
        run()
    assert_ran(first, outputs[0])
    assert_ran(second, outputs[1])
    assert device.contexts[0]._kernels is device.contexts[1]._kernels is not None, "compiled once for all"


def test_the_librarys_graphs_are_used_off_the_default_stream(
    engine: TensorRTEngine, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_once(engine, inputs(1))
    monkeypatch.setattr(tensorrt_engine, "_current_stream", lambda device: 0)
    run_once(engine, inputs(1))
    assert device.calls[1:] == ["execute on 7", "execute on 0"]
    whole = tensorrt_rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert [context._graphs for context in device.contexts] == [whole, None]


def test_scratch_memory_is_one_piece_per_stream_and_grows(
    engine: TensorRTEngine, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wanted in (100, 50, 300):
        device.memory = wanted
        run_once(engine, inputs(1))
    assert [context._memory[1] for context in device.contexts] == [100, 100, 300]
    assert device.contexts[0]._memory[0] == device.contexts[1]._memory[0]
    monkeypatch.setattr(tensorrt_engine, "_current_stream", lambda device: 8)
    run_once(engine, inputs(1))
    assert device.contexts[3]._memory[0] != device.contexts[2]._memory[0]


def test_closing_lets_go_of_everything(engine: TensorRTEngine, device: Device) -> None:
    given = inputs(1)
    run = engine.bind(given, CONTRACT.outputs_for(given))
    run()
    device.contexts.clear()
    context = weakref.ref(run._context)  # type: ignore[attr-defined]
    scratch = weakref.ref(engine._scratch.take(7, 0))
    engine.close()
    engine.close()
    assert device.calls[-1] == "empty cache"
    assert (context(), scratch(), engine._engine) == (None, None, None)
    with pytest.raises(AssertionError, match="run after close"):
        run()
    with pytest.raises(AssertionError, match="bind after close"):
        run_once(engine, inputs(1))


def test_the_library_tells_of_its_layers(engine: TensorRTEngine) -> None:
    assert json.loads(engine.layers()) == {"Layers": ["one"]}


def test_sizes_the_engine_was_not_built_for(engine: TensorRTEngine, device: Device) -> None:
    with pytest.raises(EngineError, match="Stage stage: slots is 3, but its engine was built for 1 to 2"):
        run_once(engine, inputs(3))
    assert device.contexts == []


def test_tensors_that_do_not_fit_the_contract(engine: TensorRTEngine) -> None:
    given = inputs(2)
    with pytest.raises(EngineError, match="tensor x: found float32"):
        engine.bind({**given, "x": given["x"].float()}, CONTRACT.outputs_for(given))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("create_execution_context", "gives no execution context: out of memory"),
        ("set_input_shape", "takes no shape for x: out of memory"),
        ("set_tensor_address", "takes no address for x: out of memory"),
        ("execute_async_v3", "cannot run: out of memory"),
    ],
)
def test_a_call_that_fails_is_an_error_with_the_librarys_reason(
    engine: TensorRTEngine, device: Device, call: str, message: str
) -> None:
    device.fails = call
    MESSAGES.clear()
    MESSAGES.log(tensorrt_rtx.ILogger.ERROR, "out of memory")
    with pytest.raises(EngineError, match=f"Stage stage: tensorrt_rtx.* {message}"):
        run_once(engine, inputs(2))


def test_none_from_deserialisation(device: Device, tmp_path: Path) -> None:
    device.refuses = True
    with pytest.raises(EngineError, match=r"cannot load this engine .*built for sm86, sm89; found a card, sm86, CUDA"):
        open_engine(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "1.0"}, r"built with tensorrt_rtx 1\.0, .*found tensorrt_rtx .*--targets sm86,sm89`"),
        ({"library": "tensorrt"}, r"built with tensorrt .*found tensorrt_rtx"),
        ({"targets": ("sm120",)}, r"built for sm120; cpu is a card \(sm86\).*--targets sm86`"),
    ],
    ids=["version", "library", "gpu"],
)
def test_engines_for_something_else_are_refused_with_the_command_that_rebuilds(
    device: Device, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        open_engine(tmp_path, replace(RECORD, **changes))  # type: ignore[arg-type]
    assert device.calls == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what is said where there is no GPU")
def test_without_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="built for sm86, sm89; found no NVIDIA GPU and driver here"):
        open_engine(tmp_path)


# The stand-in has no name the bindings lack. What the package uses of them, the bindings of TensorRT itself have too,
# except what only TensorRT for RTX has, which is used behind IS_RTX. Their names were read from its wheels for CUDA 13,
# 11.4.0.106 and 10.16.1.11, imported over empty libraries of the names they link to.
RTX_ONLY = {
    "ComputeCapability",
    "CudaGraphStrategy",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "IRuntimeCache",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.cuda_graph_strategy",
    "IRuntimeConfig.set_runtime_cache",
}


def names_used() -> set[str]:
    modules = (tensorrt_engine, tensorrt_library, builder, network, targets)
    trees = [ast.parse(inspect.getsource(module)) for module in modules]
    return {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def stub_classes() -> list[ast.ClassDef]:
    path = Path(__file__).parents[3] / "typings" / "tensorrt_rtx" / "__init__.pyi"
    return [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("version", ["11", "10"])
def test_tensorrt_itself_has_the_names_too(version: str) -> None:
    theirs: dict[str, list[str]] = json.loads((NAMES / f"names_{version}.json").read_text())["names"]
    used = names_used()
    assert {"execute_async_v3", "build_serialized_network", "parse_from_file"} <= used
    missing = set()
    for name in (node.name for node in stub_classes()):
        ours = {member for member in dir(getattr(tensorrt_rtx, name)) if member in used and not member.startswith("_")}
        missing |= {f"{name}.{member}" for member in ours - set(theirs[name])} if name in theirs else {name}
    assert missing == RTX_ONLY


def test_the_types_are_those_of_the_installed_bindings() -> None:
    classes = stub_classes()
    assert len(classes) > 20
    for node in classes:
        functions = {part.name for part in node.body if isinstance(part, ast.FunctionDef)} - {"__buffer__"}
        assert not functions - set(dir(getattr(tensorrt_rtx, node.name))), node.name
