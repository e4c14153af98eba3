from __future__ import annotations

from pathlib import Path

import pytest

from x2sam_rt.errors import ConfigError, EngineError
from x2sam_rt.evaluation.backends import load_choice
from x2sam_rt.evaluation.variants import Knobs, parse_knobs, plan_variants
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.runtime.bundle import load_manifest


def test_knobs_are_combined() -> None:
    assert parse_knobs([]) == [Knobs()]
    # Without memory their number means nothing, so it is run once.
    assert parse_knobs(["memory=on,off", "slots=1,4"]) == [
        Knobs(model=ModelKnobs(slots=1)),
        Knobs(model=ModelKnobs(slots=4)),
        Knobs(memory=False),
    ]
    labels = [knobs.label for knobs in parse_knobs(["slots=2", "memory=on,off"])]
    assert labels == ["slots=2", "memory=off"]
    scales = parse_knobs(["memory_scales=low,low+middle", "memory_every=2", "image_size=64"])
    assert [knobs.model.memory_scales for knobs in scales] == [("low",), ("low", "middle")]
    assert scales[1].label == "image_size=64 memory_scales=low+middle memory_every=2"
    lengths = parse_knobs(["length=8,whole", "wording=0,bundle"])
    assert [(one.length, one.wording) for one in lengths] == [(8, 0), (8, "bundle"), ("whole", 0), ("whole", "bundle")]
    assert lengths[2].label == "length=whole wording=0"


@pytest.mark.parametrize(
    "text",
    [
        "memory",
        "memory=",
        "memory=no",
        "slots=0",
        "slots=-1",
        "slots=two",
        "speed=9",
        "",
        "length=1",
        "wording=-1",
        "image_size=x",
        "memory_scales=lower",
        "memory_gaps=seconds",
        "memory_every=0",
    ],
)
def test_knobs_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_knobs([text])


def test_a_bundle_runs_as_it_is_and_on_torch(onnx_bundle: Path, torch_bundle: Path) -> None:
    def choices(folder: Path, *asked: list[str]) -> list[tuple[str, str]]:
        return [variant.choice for variant in plan_variants([folder], *asked)]

    assert choices(onnx_bundle) == [("onnxruntime", "fp32")]
    assert choices(onnx_bundle, [], ["fp32"]) == [("onnxruntime", "fp32"), ("torch", "fp32")]
    assert choices(onnx_bundle, ["torch"]) == [("torch", "fp32")]
    assert choices(torch_bundle, ["torch"]) == [("torch", "fp32")]
    with pytest.raises(EngineError, match="can run onnxruntime as asked"):
        plan_variants([torch_bundle], ["torch", "onnxruntime"])
    with pytest.raises(EngineError, match="can run bf16 as asked"):
        plan_variants([onnx_bundle], [], ["bf16"])
    with pytest.raises(EngineError, match="--engine torch --precision bf16"):
        load_choice(onnx_bundle, load_manifest(onnx_bundle), ("torch", "bf16"))


def test_bundles_need_names_of_their_own(onnx_bundle: Path, torch_bundle: Path) -> None:
    assert onnx_bundle.name == torch_bundle.name
    with pytest.raises(ConfigError, match="rename"):
        plan_variants([onnx_bundle, torch_bundle])
