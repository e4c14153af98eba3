"""Engines built by the real builder, which needs no GPU. Nothing is run on a device here."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from typer.testing import CliRunner

from x2sam_rt.cli.app import app
from x2sam_rt.errors import EngineError
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.export.onnx import save_graph
from x2sam_rt.kernels import onnx_ops
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.precision import Precision, cast_weights, dtype_of
from x2sam_rt.model.stage_contract import StageContract, TensorSpec
from x2sam_rt.model.stages import stage_contract, stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import Manifest, load_manifest
from x2sam_rt.runtime.engines.engine import StageToBuild
from x2sam_rt.runtime.engines.tensorrt_build import EngineRecord, SizeRange

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt")

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

VARYING = {
    "frame_encoder": set(),
    "memory_attention": {"slots"},
    "mask_decoder": {"conditions", "tokens"},
    "memory_encoder": {"conditions"},
    "vision_encoder": {"merged", "pairs"},
}
TARGETS = ("sm86", "sm120")
needs_no_driver = pytest.mark.skipif(torch.cuda.is_available(), reason="shows what is said where there is no driver")


@dataclass(frozen=True)
class Exported:
    """A bundle of the toy in bf16. told: what the builders said they did, and how much of it."""

    folder: Path
    manifest: Manifest
    told: list[tuple[str, float]]

    def engine(self, stage: str) -> Path:
        return self.folder / "stages" / f"{stage}.engine"


@pytest.fixture(scope="module")
def exported(toy: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder, told = tmp_path_factory.mktemp("tensorrt") / "bundle", list[tuple[str, float]]()
    plan = ExportPlan(toy, "tensorrt", "bf16", TARGETS)
    manifest = export_bundle(plan, folder, on_progress=lambda what, done: told.append((what, done)))
    return Exported(folder, manifest, told)


def built(model: X2SAM, precision: Precision, name: str, folder: Path) -> tuple[EngineRecord, float]:
    """A stage's engine built alone: its record, and its error."""
    contract, path = stage_contract(name, model.config, dtype_of(precision)), folder / f"{name}.engine"
    stage = StageToBuild(contract, stage_module(model, name), precision, model.config, lambda path: None, TARGETS)
    error = build(stage, path)
    return EngineRecord.load(path), error


@pytest.mark.parametrize("stage", VARYING)
def test_every_stage_builds_in_bf16_for_several_gpus(exported: Exported, stage: str) -> None:
    record = EngineRecord.load(exported.engine(stage))
    assert exported.engine(stage).stat().st_size > 1e5
    assert record.targets == TARGETS
    assert set(record.sizes) == VARYING[stage]
    assert record.parity <= 1e-5
    # The weights are the same and the arithmetic is fp32's; what is left are constants the graph rounds to bf16.
    assert exported.manifest.errors[stage] <= 2e-2
    assert record.attention == "fused"
    assert record.layers["bf16"] > 100
    assert record.seconds > 0
    assert record.activation_bytes is not None


def test_the_bundle_holds_engines_and_their_records_and_nothing_of_the_work(exported: Exported) -> None:
    found = sorted(path.name for path in (exported.folder / "stages").iterdir())
    wanted = [f"{stage}.engine{end}" for stage in VARYING for end in ("", ".json")]
    assert found == sorted([*wanted, "weights.safetensors"])
    assert {f"stages/{name}" for name in found} <= set(load_manifest(exported.folder).files)


def test_progress_is_told(exported: Exported) -> None:
    shares = [done for what, done in exported.told if " GB" not in what]  # not those of writing weights
    assert shares.count(1.0) == len(VARYING)
    first = shares[: shares.index(1.0) + 1]
    assert first == sorted(first)
    assert first[0] < 0.5


def test_inspect_tells_how_engines_were_built(exported: Exported) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(exported.folder)], env={"COLUMNS": "300"})
    text = " ".join(shown.stdout.split())
    assert shown.exit_code == 0, shown.output
    assert f"engines by tensorrt_rtx {VERSION} for sm86, sm120; checked as graphs on the CPU" in text
    record = EngineRecord.load(exported.engine("memory_attention"))
    assert f"{record.layers['bf16']} bf16" in text
    assert "slots 1…" in text
    wrong = CliRunner().invoke(app, ["inspect", str(exported.folder), "--layers", "nothing"])
    assert (wrong.exit_code, "Found stage 'nothing'" in wrong.stderr) == (1, True)


@needs_no_driver
@pytest.mark.parametrize("command", [["verify"], ["inspect", "--layers", "mask_decoder"]], ids=["verify", "layers"])
def test_what_needs_the_gpu_says_so(exported: Exported, command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command, str(exported.folder)])
    assert shown.exit_code == 1
    said = " ".join(shown.stderr.split())
    assert "Looked for the NVIDIA GPU cuda" in said
    assert 'run a bundle on "cpu" that was exported with --engine onnxruntime or torch' in said


def test_memory_encoder_builds_in_fp32(toy: Checkpoint, tmp_path: Path) -> None:
    record, error = built(toy.model, "fp32", "memory_encoder", tmp_path)
    assert error <= 1e-5
    assert "bf16" not in record.layers


def test_two_builds_give_the_same_bytes(exported: Exported, toy: Checkpoint, tmp_path: Path) -> None:
    model = cast_weights(copy.deepcopy(toy.model), torch.bfloat16)
    built(model, "bf16", "memory_encoder", tmp_path)
    assert (tmp_path / "memory_encoder.engine").read_bytes() == exported.engine("memory_encoder").read_bytes()


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


RECORD = EngineRecord("tensorrt_rtx", VERSION, TARGETS, {}, 0.0, {}, "fused", 0.0, None, 0)


def test_an_engine_that_holds_the_scores_is_refused(tmp_path: Path) -> None:
    network = attention(tmp_path, TensorProto.FLOAT, 65536)
    scores = attention_scores(network, {})
    assert build_plan(network, scores, replace(LARGE, scores_limit=2**40)), "all may be held, so it is decomposed"
    record = replace(RECORD, activation_bytes=activation_bytes(), largest_scores_bytes=scores[0].num_bytes)
    with pytest.raises(EngineError, match=r"is 32\.\d+ GiB; its attention's scores would be 16\.00 GiB.*refused"):
        refuse_held_scores("stage", record, SCORES_LIMIT)
    with pytest.raises(EngineError, match="memory of its engine is not known"):
        refuse_held_scores("stage", replace(record, activation_bytes=None), SCORES_LIMIT)
    refuse_held_scores("stage", record, 2**40)


def test_the_stage_chooses_pieces_where_fp32_scores_are_too_many(toy: Checkpoint, tmp_path: Path) -> None:
    record, _ = built(toy.model, "fp32", "vision_encoder", tmp_path)
    assert record.attention == "online"
    assert record.largest_scores_bytes == 16 * 2 * 16384**2 * 4  # pairs, heads, patches², bytes
    assert record.parity <= 1e-5


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
    plan = build_plan(attention(tmp_path, TensorProto.BFLOAT16, 64), [], LARGE)
    with pytest.raises(EngineError, match=r"cannot load this engine \(.*CUDA driver.*built for sm86, sm120; found no"):
        deserialize(plan, RECORD, tmp_path / "attention.engine", torch.device("cuda", 0))
