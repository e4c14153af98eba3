"""Engines built by the real builder, which needs no GPU. Nothing is run on a device here."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from x2sam_rt.errors import EngineError
from x2sam_rt.export.onnx import save_graph
from x2sam_rt.kernels import onnx_ops
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.precision import Precision, cast_weights
from x2sam_rt.model.stage_contract import StageContract, TensorSpec
from x2sam_rt.model.stages import stage_contract, stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.engines.engine import StageToBuild
from x2sam_rt.runtime.engines.tensorrt_build import EngineRecord, SizeRange

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'x2sam-rt[tensorrt]'")

from x2sam_rt.export.tensorrt.bodies import OPSET
from x2sam_rt.export.tensorrt.builder import (
    SCORES_LIMIT,
    BuildOptions,
    activation_bytes,
    build,
    build_plan,
    refuse_held_scores,
)
from x2sam_rt.export.tensorrt.graph import attend_online, tensorrt_graph
from x2sam_rt.export.tensorrt.network import Network, attention_scores, parse_network
from x2sam_rt.export.tensorrt.targets import known_targets, resolve_targets
from x2sam_rt.runtime.engines.tensorrt_engine import deserialize
from x2sam_rt.runtime.engines.tensorrt_library import VERSION

STAGES = ("frame_encoder", "memory_attention", "mask_decoder", "memory_encoder", "vision_encoder")
VARYING = {
    "frame_encoder": set(),
    "memory_attention": {"slots"},
    "mask_decoder": {"conditions", "tokens"},
    "memory_encoder": {"conditions"},
    "vision_encoder": {"merged", "pairs"},
}
TARGETS = ("sm86", "sm120")
needs_no_driver = pytest.mark.skipif(torch.cuda.is_available(), reason="shows what is said where there is no driver")


@pytest.fixture(scope="module")
def bf16(toy: Checkpoint) -> X2SAM:
    return cast_weights(copy.deepcopy(toy.model), torch.bfloat16)


def built(model: X2SAM, dtype: torch.dtype, name: str, folder: Path, **changes: object) -> Built:
    contract, path = stage_contract(name, model.config, dtype), folder / f"{name}.engine"
    precision: Precision = "fp32" if dtype == torch.float32 else "bf16"
    told: list[tuple[str, float]] = []

    def tell(what: str, done: float) -> None:
        told.append((what, done))

    stage = StageToBuild(contract, stage_module(model, name), precision, model.config, lambda path: None, TARGETS, tell)
    error = build(stage, path)
    return Built(EngineRecord.load(path), error, told)


@dataclass(frozen=True)
class Built:
    record: EngineRecord
    error: float
    told: list[tuple[str, float]]


@pytest.fixture(scope="module")
def bf16_stages(bf16: X2SAM, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Built]]:
    folder = tmp_path_factory.mktemp("engines")
    return folder, {stage: built(bf16, torch.bfloat16, stage, folder) for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_builds_in_bf16_for_several_gpus(bf16_stages: tuple[Path, dict[str, Built]], stage: str) -> None:
    folder, stages = bf16_stages
    result = stages[stage]
    assert (folder / f"{stage}.engine").stat().st_size > 1e5
    assert result.record.parity <= 1e-5
    # The weights are the same and the arithmetic is fp32's; what is left are constants the graph rounds to bf16.
    assert result.error <= 2e-2
    assert result.record.targets == TARGETS
    assert set(result.record.sizes) == VARYING[stage]
    assert result.record.attention == "fused"
    assert result.record.layers["bf16"] > 100
    assert result.record.seconds > 0
    assert result.record.activation_bytes is not None
    assert not list(folder.glob(".*")), "files of the export were left"


def test_memory_encoder_builds_in_fp32(toy: Checkpoint, tmp_path: Path) -> None:
    result = built(toy.model, torch.float32, "memory_encoder", tmp_path)
    assert result.error <= 1e-5
    assert "bf16" not in result.record.layers


def test_two_builds_give_the_same_bytes(bf16: X2SAM, bf16_stages: tuple[Path, dict[str, Built]]) -> None:
    folder, _ = bf16_stages
    first = (folder / "memory_encoder.engine").read_bytes()
    built(bf16, torch.bfloat16, "memory_encoder", folder)
    assert (folder / "memory_encoder.engine").read_bytes() == first


def test_progress_is_told(bf16_stages: tuple[Path, dict[str, Built]]) -> None:
    shares = [done for _, done in bf16_stages[1]["memory_encoder"].told]
    assert shares == sorted(shares)
    assert shares[0] < 0.5
    assert shares[-1] == 1.0


# Attention alone, at the sizes of a 1024×1024 frame: 256² queries; as many keys, or five slots of 64².


def attention(tmp_path: Path, dtype: int, keys: int | str, *, online: bool = False, dim: int = 256) -> Network:
    names = ["query", "key", "value"]
    shapes: list[tuple[int | str, ...]] = [(65536, dim), (keys, dim), (keys, dim)]
    node = helper.make_node("SelfAttention", names, ["out"], domain=onnx_ops.DOMAIN)
    inputs = [helper.make_tensor_value_info(name, dtype, shape) for name, shape in zip(names, shapes, strict=True)]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("out", dtype, shapes[0])])
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(onnx_ops.DOMAIN, onnx_ops.VERSION)]
    model = tensorrt_graph(onnx_ops.add_function_bodies(helper.make_model(graph, opset_imports=imports, ir_version=10)))
    path = tmp_path / "attention.onnx"
    save_graph(attend_online(model, [0]) if online else model, path)
    name = {TensorProto.FLOAT: "float32", TensorProto.BFLOAT16: "bfloat16"}[dtype]
    tensors = tuple(TensorSpec(tensor, shape, name) for tensor, shape in zip(names, shapes, strict=True))
    return parse_network(path, StageContract("attention", tensors, (TensorSpec("out", shapes[0], name),)))


LARGE = BuildOptions(TARGETS, {"keys": SizeRange(4096, 20480, 20480)})


@pytest.mark.parametrize(("keys", "gigabytes"), [(65536, 8.0), ("keys", 2.5)], ids=["self", "slots"])
def test_bf16_attention_to_many_tokens_is_built_without_its_scores(
    tmp_path: Path, keys: int | str, gigabytes: float
) -> None:
    network = attention(tmp_path, TensorProto.BFLOAT16, keys)
    scores = attention_scores(network, LARGE.sizes)
    assert [score.num_bytes / 2**30 for score in scores] == [gigabytes]
    assert build_plan(network, scores, LARGE)
    held = activation_bytes()
    assert held is not None
    assert held < 2**27  # two sets of queries; the scores would be 64 times that


def test_fp32_attention_to_many_tokens_is_refused_as_one_node(tmp_path: Path) -> None:
    network = attention(tmp_path, TensorProto.FLOAT, 65536)
    scores = attention_scores(network, {})
    with pytest.raises(EngineError, match=r"not supported by a dedicated kernel.*would hold 16\.0 GiB"):
        build_plan(network, scores, LARGE)


def test_fp32_attention_to_many_tokens_goes_piece_by_piece(tmp_path: Path) -> None:
    scores = attention_scores(attention(tmp_path, TensorProto.FLOAT, 65536), {})
    network = attention(tmp_path, TensorProto.FLOAT, 65536, online=True)
    assert attention_scores(network, {}) == []
    assert build_plan(network, scores, LARGE)
    held = activation_bytes()
    assert held is not None
    assert held < 2 * SCORES_LIMIT  # against 16 GiB


def test_an_engine_that_holds_the_scores_is_refused(tmp_path: Path, bf16_stages: tuple[Path, dict[str, Built]]) -> None:
    network = attention(tmp_path, TensorProto.FLOAT, 65536)
    scores = attention_scores(network, {})
    assert build_plan(network, scores, replace(LARGE, scores_limit=2**40)), "all may be held, so it is decomposed"
    record = replace(
        bf16_stages[1]["memory_encoder"].record,
        activation_bytes=activation_bytes(),
        largest_scores_bytes=scores[0].num_bytes,
    )
    with pytest.raises(EngineError, match=r"is 32\.\d+ GiB; its attention's scores would be 16\.00 GiB.*refused"):
        refuse_held_scores("stage", record, SCORES_LIMIT)
    with pytest.raises(EngineError, match="memory of its engine is not known"):
        refuse_held_scores("stage", replace(record, activation_bytes=None), SCORES_LIMIT)
    refuse_held_scores("stage", record, 2**40)


def test_the_stage_chooses_pieces_where_fp32_scores_are_too_many(toy: Checkpoint, tmp_path: Path) -> None:
    result = built(toy.model, torch.float32, "vision_encoder", tmp_path)
    assert result.record.attention == "online"
    assert result.record.largest_scores_bytes == 16 * 2 * 16384**2 * 4  # pairs, heads, patches², bytes
    assert result.record.parity <= 1e-5


# What goes wrong, and what is said of it.


def graph_file(tmp_path: Path, node: onnx.NodeProto) -> Path:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph([node], "g", [value], [output]), opset_imports=[helper.make_opsetid("", OPSET)]
    )
    path = tmp_path / "graph.onnx"
    save_graph(model, path)
    return path


SPEC = StageContract("stage", (TensorSpec("x", (2, 3), "float32"),), (TensorSpec("y", (2, 3), "float32"),))


def stateless_scan() -> onnx.NodeProto:
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, [3])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [3])
    body = helper.make_graph([helper.make_node("Relu", ["row"], ["out"])], "body", [row], [out])
    return helper.make_node("Scan", ["x"], ["y"], name="loop", num_scan_inputs=1, body=body)


def test_a_scan_left_in_is_an_error_with_node_operator_and_text(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"Stage stage: tensorrt_rtx .* cannot parse .*node loop, operator Scan: \S+"):
        parse_network(graph_file(tmp_path, stateless_scan()), SPEC)


def test_a_file_that_is_no_graph_differs_from_its_contract(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"hello")
    with pytest.raises(EngineError, match=r"found inputs \[\], wanted \['x'\]"):
        parse_network(tmp_path / "graph.onnx", SPEC)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (TensorSpec("z", (2, 3), "float32"), r"found outputs \['y'\], wanted \['z'\]"),
        (TensorSpec("y", (3, 2), "float32"), r"output y: found FLOAT \(2, 3\), wanted FLOAT \(3, 2\)"),
        (TensorSpec("y", (2, 3), "bfloat16"), r"output y: found FLOAT \(2, 3\), wanted BF16 \(2, 3\)"),
    ],
    ids=["name", "shape", "type"],
)
def test_a_network_that_differs_from_its_contract(tmp_path: Path, tensor: TensorSpec, message: str) -> None:
    path = graph_file(tmp_path, helper.make_node("Relu", ["x"], ["y"]))
    parse_network(path, SPEC)
    with pytest.raises(EngineError, match=message):
        parse_network(path, replace(SPEC, outputs=(tensor,)))


def test_a_profile_the_graph_cannot_have(tmp_path: Path) -> None:
    network = attention(tmp_path, TensorProto.BFLOAT16, "keys")
    wrong = replace(LARGE, sizes={"keys": SizeRange(9, 5, 4)})
    with pytest.raises(
        EngineError, match=r"Stage attention: tensorrt_rtx .* builds no engine for sm86, sm120: .*satisfy MIN<=OPT<=MAX"
    ):
        build_plan(network, [], wrong)


@needs_no_driver
def test_this_gpu_needs_a_gpu() -> None:
    with pytest.raises(EngineError, match="Found no NVIDIA GPU and driver here"):
        resolve_targets(["this-gpu"])


def test_targets_are_ordered_and_each_once() -> None:
    assert resolve_targets(["sm120", "SM86", "sm86"]) == ("sm86", "sm120")
    assert known_targets() == ("sm80", "sm86", "sm89", "sm120", "sm121")


@pytest.mark.parametrize("target", ["sm75", "sm90", "hopper", "current"])
def test_targets_the_library_does_not_build_for(target: str) -> None:
    with pytest.raises(EngineError, match=f"tensorrt_rtx builds no engines for {target}; wanted some of sm80, "):
        resolve_targets(["sm86", target])


def test_bf16_for_turing_is_the_builders_error(tmp_path: Path) -> None:
    network = attention(tmp_path, TensorProto.BFLOAT16, 64)
    with pytest.raises(EngineError, match=r"builds no engine for sm75: .*HW-specific datatypes: b16"):
        build_plan(network, [], replace(LARGE, targets=("sm75",)))


@needs_no_driver
def test_without_a_driver_loading_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "attention.engine"
    path.write_bytes(build_plan(attention(tmp_path, TensorProto.BFLOAT16, 64), [], LARGE))
    record = EngineRecord("tensorrt_rtx", VERSION, TARGETS, {}, 0.0, {}, "fused", 0.0, None, 0)
    with pytest.raises(EngineError, match=r"cannot load this engine \(.*CUDA driver.*built for sm86, sm120; found no"):
        deserialize(path, record)
