from __future__ import annotations

import importlib.util
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from x2sam_rt import errors
from x2sam_rt.errors import BundleError, MissingExtra
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.export.verify import PromptCheck, bounds_of, check_prompts, prompts
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.checkpoint.loading import Checkpoint, load_checkpoint
from x2sam_rt.model.quantization import LanguageWeights, quantize_language
from x2sam_rt.model.torchao_warnings import HeldWarnings
from x2sam_rt.runtime.bundle import BundleFiles, Manifest, load_manifest
from x2sam_rt.runtime.pipeline import Pipeline
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.weights import load_model

needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao: extra [quant]")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "bundle"
    export_bundle(ExportPlan(load_checkpoint(embedded_checkpoint()), "torch"), folder)
    return folder


@pytest.fixture(scope="module")
def full(trained: Path) -> Iterator[Runtime]:
    with Runtime.load(trained) as loaded:
        yield loaded


def rounded(manifest: Manifest, weights: LanguageWeights) -> Manifest:
    return replace(manifest, language_weights=weights)


def checks(folder: Path, full: Runtime, weights: LanguageWeights) -> tuple[list[PromptCheck], list[bool]]:
    manifest = rounded(load_manifest(folder), weights)
    files = BundleFiles(folder, manifest.files)
    runtime = Runtime.assemble(files, manifest, load_model(manifest, files), full.engines)
    found = list(check_prompts(prompts(runtime.language), full.language, Pipeline(full.engines, manifest.model)))
    return found, [check.passed(bounds_of(manifest)) for check in found]


@needs_torchao
def test_the_embedded_model_passes_in_int8_and_not_in_int4(trained: Path, full: Runtime) -> None:
    found, passed = checks(trained, full, "int8")
    assert all(passed), found
    assert all(check.cosine < 1 for check in found)  # it was rounded
    found, passed = checks(trained, full, "int4")
    assert not all(passed)
    assert min(check.cosine for check in found) > 0.8  # by rounding, not by mistake


@needs_torchao
@pytest.mark.parametrize(("weights", "steps"), [("int8", 254), ("int4", 15)])
def test_weights_are_rounded_by_a_step_at_most(toy: Checkpoint, weights: LanguageWeights, steps: int) -> None:
    model = load_checkpoint(toy.path.parent).model
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    quantize_language(model, weights)
    changed = set()
    for name, weight in model.named_parameters():
        if type(weight) is nn.Parameter and torch.equal(weight, before[name]):
            continue
        changed.add(name)
        whole = weight.dequantize()  # type: ignore[operator]
        scale = before[name].abs().amax() * 2 / steps
        assert (whole - before[name]).abs().max() <= scale
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".language_model.layers." in name
    }
    assert changed == linear
    assert linear


@needs_torchao
@pytest.mark.parametrize("wanted", [False, True], ids=["whole", "rounded"])
def test_what_torchao_says_is_heard_when_it_is_wanted(wanted: bool) -> None:
    """transformers imports it for every bundle."""
    code = "import torch, x2sam_rt.model.x2sam, torchao\n"
    code += "from x2sam_rt.model.torchao_warnings import TORCHAO_WARNINGS\n" * wanted
    code += "TORCHAO_WARNINGS.release()\n" * wanted
    code += "import logging; logging.getLogger('torch.utils._pytree').warning('another')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=900)
    heard = [line for line in done.stderr.splitlines() if "another" not in line]
    assert "another" in done.stderr
    assert all("torchao" in line or "Enum" in line for line in heard)
    assert wanted or heard == []


def test_held_warnings_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    held, said, logger = HeldWarnings(), list[str](), logging.getLogger("torchao")
    monkeypatch.setattr(logger, "filters", [])
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        record = logger.makeRecord("torchao", logging.WARNING, "", 0, "no %s", ("kernel",), None)
        assert not held.filter(record)
        held.release()
        held.release()
        assert said == ["no kernel"]
        assert held.filter(record)
    finally:
        logger.removeHandler(handler)


def test_without_torchao_a_rounded_bundle_is_refused_when_it_is_loaded(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str, *rest: Any) -> Any:
        return None if name == "torchao" else importlib.util.find_spec(name, *rest)

    monkeypatch.setattr(errors, "find_spec", find)
    folder = tmp_path / "bundle"
    folder.symlink_to(trained)
    manifest = load_manifest(folder)
    files = BundleFiles(folder, manifest.files)
    with pytest.raises(MissingExtra, match=r'pip install "x2sam-rt\[quant\]"'):
        load_model(rounded(manifest, "int8"), files)


def test_the_manifest_knows_no_other_weights(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(trained, copy)
    manifest = load_manifest(copy)
    assert manifest.language_weights == "full"
    rounded(manifest, "int8").save(copy)
    assert load_manifest(copy).language_weights == "int8"
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"int8"', '"int3"'))
    with pytest.raises(BundleError, match="language_weights is 'int3'"):
        load_manifest(copy)
