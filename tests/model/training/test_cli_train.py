from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny
from davis import make_davis
from PIL import Image
from recordings import FIXTURES
from typer.testing import CliRunner, Result

from x2sam_rt.cli import train
from x2sam_rt.cli.app import app
from x2sam_rt.data.synthetic import corpus
from x2sam_rt.model.training.curve import read_curve
from x2sam_rt.model.training.toy import model as toy_model
from x2sam_rt.model.training.toy import recipe as toy_recipe
from x2sam_rt.model.training.toy.model import make_tokenizer
from x2sam_rt.runtime.bundle import load_manifest

LORA = FIXTURES / "toy_lora"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def tiny_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_model, "toy_model", tiny.model)
    monkeypatch.setattr(toy_recipe, "toy_recipe", tiny.recipe)


def steps(folder: Path) -> list[int]:
    return [point.step for point in read_curve(folder / "losses.jsonl")]


def test_toy_stops_goes_on_and_makes_a_checkpoint(
    tiny_toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "toy"
    arguments = ("train", "toy", "-o", folder, "--processes", 1)
    told = train.TrainingBar.__call__

    def interrupt(self: train.TrainingBar, step: int, losses: Mapping[str, float]) -> None:
        told(self, step, losses)
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(train.TrainingBar, "__call__", interrupt)
        result = call(*arguments)
    assert result.exit_code == 130
    assert "Go on with --resume" in result.stderr
    assert steps(folder) == [1, 2]
    again = call(*arguments)
    assert again.exit_code == 1
    assert "holds a training run" in again.stderr
    result = call(*arguments, "--resume")
    assert result.exit_code == 0, result.output
    assert "8/8 clips: mask_bce" in result.stderr
    assert "x2sam-rt export" in result.stdout
    assert steps(folder) == list(range(1, 9))
    assert call("export", folder, "-o", tmp_path / "bundle", "--engine", "torch").exit_code == 0


def test_toy_has_nothing_to_resume(tiny_toy: None, tmp_path: Path) -> None:
    result = call("train", "toy", "-o", tmp_path, "--processes", 1, "--resume")
    assert result.exit_code == 1
    assert "nothing to resume" in result.stderr


@pytest.fixture
def tuning(tmp_path: Path) -> list[object]:
    """A command that fine-tunes a checkpoint with adapters for three steps."""
    make_tokenizer(corpus(60, 0), 403, tmp_path / "tokenizer")
    davis = make_davis(tmp_path / "davis")
    command: list[object] = ["train", "finetune", LORA, "--vlm", LORA / "vlm", "--tokenizer", tmp_path / "tokenizer"]
    command += ["--dataset", "ref-davis17", "--root", davis, "-o", tmp_path / "tuned", "--frames", 2]
    return [*command, "--decoder-steps", 1, "--steps", 2, "--accumulate", 1]


def test_a_fine_tuned_checkpoint_is_exported(tuning: list[object], tmp_path: Path) -> None:
    result = call(*tuning)
    assert result.exit_code == 0, result.output
    assert "3/3 everything: mask_bce" in result.stderr
    assert f"--vlm {LORA / 'vlm'}" in result.stdout.replace("\n", "")
    assert steps(tmp_path / "tuned") == [1, 2, 3]
    exported = call("export", tmp_path / "tuned", "--vlm", LORA / "vlm", "-o", tmp_path / "bundle", "--engine", "torch")
    assert exported.exit_code == 0, exported.output
    assert load_manifest(tmp_path / "bundle").checkpoint == "checkpoint.safetensors"


def test_fine_tuning_names_what_it_cannot_learn_from(tuning: list[object], tmp_path: Path) -> None:
    small = Image.new("P", (20, 20), 1)
    small.putpalette([0, 0, 0, 255, 0, 0])
    for mask in (tmp_path / "davis/train/Annotations").glob("*/00001.png"):
        small.save(mask)
    result = call(*tuning)
    assert result.exit_code == 1
    message = " ".join(result.stderr.split())
    assert "Example ref-davis17/train/" in message
    assert "00001.png" in message
    assert not (tmp_path / "tuned").exists()


def test_fine_tuning_refuses_what_it_cannot_do(tuning: list[object], tmp_path: Path) -> None:
    for changes, code, message in (
        (["--dataset", "none"], 1, "There is no reader for 'none'"),
        (["--split", "nowhere"], 1, "nowhere"),
        (["--full", "--rank", 3], 1, "takes no adapters"),
        (["--rank", 3], 1, "adapters of rank 4"),
        (["--vlm", tmp_path / "nowhere"], 1, "nowhere"),
        (["--frames", 0], 2, "--frames"),
    ):
        result = call(*tuning, *changes)
        assert result.exit_code == code
        assert message in " ".join(result.stderr.split()), result.stderr
        assert not (tmp_path / "tuned").exists()
    assert call(*tuning[:3]).exit_code == 2
    (tmp_path / "tuned").write_text("mine")
    result = call(*tuning)
    assert result.exit_code == 1
    assert "tuned: cannot be written" in " ".join(result.stderr.split())


def test_the_embedded_checkpoint_is_tuned_by_its_name(tmp_path: Path) -> None:
    """What is written has the rights that any new file has."""
    tuned, beside = tmp_path / "tuned", tmp_path / "beside"
    arguments = ("--dataset", "ref-davis17", "--root", make_davis(tmp_path / "davis"), "--frames", 1, "-o", tuned)
    result = call("train", "finetune", "toy", *arguments, "--decoder-steps", 0, "--steps", 1, "--accumulate", 1)
    assert result.exit_code == 0, result.output
    beside.touch()
    written = [path for path in tuned.rglob("*") if path.is_file()]
    assert {path.name for path in written} >= {"checkpoint.safetensors", "config.json", "tokenizer.json", "state.pt"}
    assert {path.stat().st_mode for path in written} == {beside.stat().st_mode}
    assert call("export", tuned, "-o", tmp_path / "bundle", "--engine", "torch").exit_code == 0


@pytest.mark.parametrize("command", ["toy", "finetune"])
def test_help_teaches(command: str) -> None:
    result = call("train", command, "--help")
    assert result.exit_code == 0
    assert "Exit codes" in result.stdout
