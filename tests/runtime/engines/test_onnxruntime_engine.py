"""ONNX Runtime on a GPU, as far as that shows without one: what is asked of it, and that nothing falls back unseen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch

from x2sam_rt.errors import EngineError
from x2sam_rt.model.stage_contract import StageContract, TensorSpec
from x2sam_rt.runtime.engines import onnxruntime_engine
from x2sam_rt.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine, check_placement
from x2sam_rt.runtime.runtime import Runtime

CUDA = "CUDAExecutionProvider"
GPU = torch.device("cuda", 1)
CONTRACT = StageContract("stage", (TensorSpec("x", (2, 3), "float32"),), (TensorSpec("y", (2, 3), "float32"),))


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture
def graph(onnx_bundle: Path) -> Path:
    return onnx_bundle / "stages" / "memory_attention.onnx"


def test_nodes_on_the_cpu_are_an_error(graph: Path) -> None:
    """On a real session, whose every node is on the CPU."""
    with pytest.raises(EngineError, match=r"asked for CUDA.*, and \d+ nodes run elsewhere \(.* on CPUExec"):
        check_placement("memory_attention", session(graph), CUDA)
    check_placement("memory_attention", session(graph), "CPUExecutionProvider")


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_an_onnxruntime_without_cuda_says_so(onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_engine, "_stream", lambda device: SimpleNamespace(cuda_stream=1))
    with pytest.raises(EngineError, match=r"asked for cuda:1, which needs CUDAExecutionProvider. Install"):
        OnnxRuntimeEngine(CONTRACT, onnx_bundle / "stages" / "memory_attention.onnx", GPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
def test_without_a_driver_nothing_runs_on_the_cpu_instead(onnx_bundle: Path) -> None:
    with pytest.raises(EngineError, match="Looked for the NVIDIA GPU cuda"):
        Runtime.load(onnx_bundle, device="cuda")


class Session:
    """Stands for one on a GPU. calls: what was done, in order; on_cpu: names of nodes that stayed on the CPU."""

    def __init__(self, calls: list[Any], on_cpu: tuple[str, ...] = ()) -> None:
        self.calls, self._on_cpu = calls, on_cpu

    def __call__(self, path: str, options: Any, *, providers: list[Any], disabled_optimizers: list[str]) -> Session:
        self.calls.append(providers)
        return self

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x", type="tensor(float)", shape=[2, 3])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y", type="tensor(float)", shape=[2, 3])]

    def get_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        parts = [(CUDA, ("MatMul",)), ("CPUExecutionProvider", self._on_cpu)]
        return [SimpleNamespace(ep_name=name, get_nodes=lambda ops=ops: nodes(ops)) for name, ops in parts]

    def io_binding(self) -> Any:
        def bind(*arguments: Any) -> None:
            self.calls.append(arguments)

        return SimpleNamespace(bind_input=bind, bind_output=bind)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.calls.append("run")


def nodes(ops: tuple[str, ...]) -> list[Any]:
    return [SimpleNamespace(op_type=op, name=f"/{op}") for op in ops]


def stand_in(monkeypatch: pytest.MonkeyPatch, found: Session) -> None:
    stream = SimpleNamespace(cuda_stream=77, wait_stream=lambda other: found.calls.append("stream waits"))
    current = SimpleNamespace(wait_stream=lambda other: found.calls.append("PyTorch waits"))
    monkeypatch.setattr(onnxruntime_engine, "_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    monkeypatch.setattr(onnxruntime, "InferenceSession", found)


def test_reads_and_writes_tensors_where_they_lie_on_a_stream_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Session([])
    stand_in(monkeypatch, found)
    engine = OnnxRuntimeEngine(CONTRACT, Path("stage.onnx"), GPU)
    x, y = torch.zeros(2, 3), torch.zeros(2, 3)
    run = engine.bind({"x": x}, {"y": y})
    run()
    providers, bound_x, bound_y, *ran = found.calls
    assert providers == [(CUDA, {"device_id": "1", "user_compute_stream": "77"})]
    assert (bound_x[:3], bound_x[-1]) == (("x", "cuda", 1), x.data_ptr())
    assert (bound_y[:3], bound_y[-1]) == (("y", "cuda", 1), y.data_ptr())
    assert ran == ["stream waits", "run", "PyTorch waits"]
    assert not engine.recordable


def test_one_node_on_the_cpu_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Session([], on_cpu=("NonZero",)))
    with pytest.raises(EngineError, match=r"1 nodes run elsewhere .NonZero '/NonZero' on CPUExecutionProvider"):
        OnnxRuntimeEngine(CONTRACT, Path("stage.onnx"), GPU)
