"""What an export needs is known, and refused, before anything is loaded or lost."""

from __future__ import annotations

import io
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from typer.testing import CliRunner, Result

from x2sam_rt.cli import export as command
from x2sam_rt.cli.app import app
from x2sam_rt.errors import BundleError, ConfigError
from x2sam_rt.export import needs
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.export.needs import ExportNeeds, check_needs
from x2sam_rt.model.checkpoint.loading import Checkpoint, empty_model
from x2sam_rt.model.checkpoint.published import PUBLISHED
from x2sam_rt.model.checkpoint.stored import StoredWeight
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.model.precision import bf16_share
from x2sam_rt.model.preprocess import vision_size

GIB = 2**30


@pytest.fixture(scope="module")
def published() -> Checkpoint:
    """The published model's shapes; nothing has memory."""
    weights = {n: StoredWeight(v.bfloat16()) for n, v in empty_model(PUBLISHED).state_dict().items()}
    weights["vlm.lm_head.weight"] = weights["vlm.model.language_model.embed_tokens.weight"]
    return Checkpoint(PUBLISHED, weights, Path("none"), Path("none"))


def test_the_published_model_fits_small_machines(published: Checkpoint) -> None:
    torch_needs = ExportPlan(published, "torch", "bf16").needs
    onnx_needs = ExportPlan(published, "onnxruntime", "fp32", language_precision="bf16").needs
    largest = 4 * max(torch_needs.stage_parameters.values())
    assert torch_needs.memory <= 1.5 * GIB + largest
    assert onnx_needs.memory <= 3 * largest
    assert onnx_needs.disk < 14e9
    assert torch_needs.disk < 10e9
    assert 2 * torch_needs.language_parameters < torch_needs.disk, "the tied table is counted once"


NEEDS = ExportNeeds(0, {}, disk=10**9, memory=10**9)


def test_a_full_disk_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9 - 1))
    with pytest.raises(BundleError, match=r"The bundle takes 1\.00 GB; .* has 1\.00 GB free"):
        check_needs(NEEDS, tmp_path / "a" / "bundle")


@pytest.mark.parametrize(("free", "refused"), [(10**9 - 1, True), (10**9, False), (None, False)])
def test_too_little_memory_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int | None, refused: bool
) -> None:
    monkeypatch.setattr(needs, "free_memory", lambda: free)
    if refused:
        with pytest.raises(BundleError, match=r"up to 1\.00 GB of memory"):
            check_needs(NEEDS, tmp_path / "bundle")
    else:
        check_needs(NEEDS, tmp_path / "bundle")


def test_nothing_is_built_where_memory_is_short(
    toy: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "free_memory", lambda: 10**6)
    with pytest.raises(BundleError, match="memory"):
        export_bundle(ExportPlan(toy, "torch"), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "bf16"), "Export with --engine"),
        (("--targets", "sm86"), "not built for one GPU"),
        ((), "exists already"),
    ],
)
def test_a_request_is_checked_before_the_checkpoint_is_opened(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    """There is no such checkpoint, and nobody gets as far as to notice."""
    output = tmp_path / "bundle"
    if not options:
        output.mkdir()
    result = call(tmp_path / "none.bin", "-o", output, *options)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


def test_a_plan_says_all_and_does_nothing(tmp_path: Path) -> None:
    result = call("toy", "-o", tmp_path / "bundle", "--plan")
    assert result.exit_code == 0, result.output
    for row in ("disk", "memory", "time", "suits this processor", "language side", "pixels seen"):
        assert row in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("share", "warned", "suits"), [(15.2, True, "fp32"), (0.4, False, "bf16")])
def test_a_slow_precision_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, warned: bool, suits: str
) -> None:
    monkeypatch.setattr(command, "_bf16_share", lambda: share)
    options = ("--engine", "torch", "--precision", "bf16", "--plan")
    result = call("toy", "-o", tmp_path / "bundle", *options)
    assert ("15.2 times as long as in fp32" in " ".join(result.stderr.split())) == warned
    line = next(line for line in result.stdout.splitlines() if "suits this processor" in line)
    assert f"--precision {suits}" in line


def test_the_share_of_bf16_is_measured() -> None:
    assert 0.001 < bf16_share() < 1000


@pytest.mark.parametrize("budget", [65536, 2**20, 2**23])
@pytest.mark.parametrize("size", [(3024, 4032), (720, 1280), (5000, 301), (40, 60)])
def test_a_photo_is_scaled_to_the_budget_as_the_published_processor_does(size: tuple[int, int], budget: int) -> None:
    config = ModelKnobs(vision_budget=budget).turned(PUBLISHED)
    least, most = config.image_budget.min_pixels, config.image_budget.max_pixels
    wanted = smart_resize(*size, factor=32, min_pixels=least, max_pixels=most)
    assert vision_size(*size, 1, config.image_budget) == tuple(wanted)
    assert math.prod(wanted) <= budget or math.prod(size) < least, "a small one is enlarged to at least the least"


def test_a_videos_budget_shrinks_with_an_images() -> None:
    config = ModelKnobs(vision_budget=PUBLISHED.image_budget.max_pixels // 4).turned(PUBLISHED)
    assert config.video_budget.max_pixels == PUBLISHED.video_budget.max_pixels // 4
    for budget in (PUBLISHED.image_budget.min_pixels - 1, PUBLISHED.image_budget.max_pixels + 1):
        with pytest.raises(ConfigError, match="as the model was published with"):
            ModelKnobs(vision_budget=budget).turned(PUBLISHED)


def test_progress_without_a_terminal_names_step_bytes_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SECONDS_BETWEEN_LINES", 0.0)
    out = io.StringIO()
    with Progress(console=Console(file=out, width=200)) as progress:
        shown = command._Shown(progress, {"first": 3.0, "weights": 1.0})
        shown.step("first")
        shown.step("weights")
        shown.part("language side, 1.00 of 2.00 GB", 0.5)
        shown.step("manifest")
    lines = out.getvalue().splitlines()
    assert "weights: language side, 1.00 of 2.00 GB 50%" in lines[2]
    assert "s left" in lines[2]
    assert "manifest, about 0 s left" in lines[3]
