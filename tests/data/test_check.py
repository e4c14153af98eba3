"""What is said of a folder before anything runs on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_files import SIZE, write_frame, write_indices, write_json
from typer.testing import CliRunner

from x2sam_rt.cli.app import app
from x2sam_rt.data.check import check_dataset
from x2sam_rt.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ref-YouTube-VOS's train: two videos of three frames, three expressions."""
    expressions = {"0": {"exp": "a", "obj_id": 1}, "1": {"exp": "b", "obj_id": 2}}
    frames = ["0", "1", "2"]
    videos = {
        "v": {"frames": frames, "expressions": expressions},
        "w": {"frames": frames, "expressions": {"0": expressions["0"]}},
    }
    write_json(tmp_path / "meta_expressions" / "train" / "meta_expressions.json", {"videos": videos})
    for video in videos:
        for number in frames:
            write_frame(tmp_path / "train" / "JPEGImages" / video / f"{number}.jpg", 1)
            labels = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 3
            write_indices(tmp_path / "train" / "Annotations" / video / f"{number}.png", labels)
    return tmp_path


def test_whole_splits_and_missing_ones(root: Path) -> None:
    valid, train = check_dataset("ref-youtube-vos", root)
    assert (train.split, train.samples, train.files, train.missing, train.problem) == ("train", 3, 12, (), None)
    assert train.usable
    assert [str(piece.relative_to(root)) for piece in train.pieces] == [
        "meta_expressions/train/meta_expressions.json",
        "train/JPEGImages",
        "train/Annotations",
    ]
    assert not valid.readable
    assert valid.problem is not None
    assert "looked for meta_expressions/valid/meta_expressions.json or meta_expressions/val/" in valid.problem


def test_missing_files_are_listed_once(root: Path) -> None:
    gone = [root / "train" / "JPEGImages" / "v" / "1.jpg", root / "train" / "Annotations" / "v" / "2.png"]
    for path in gone:
        path.unlink()
    (train,) = check_dataset("ref-youtube-vos", root, ["train"])
    assert (train.samples, train.missing, train.usable) == (3, tuple(sorted(gone)), False)
    assert train.problem is None, "the first sample that is whole can be read"


def test_the_first_whole_sample_is_read(root: Path) -> None:
    write_indices(root / "train" / "Annotations" / "v" / "1.png", np.zeros((4, 4), dtype=int))
    (train,) = check_dataset("ref-youtube-vos", root, ["train"])
    assert train.problem is not None
    assert "train/v/0: " in train.problem
    assert "is 4×4 pixels" in train.problem
    assert not train.usable


def test_names_and_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no reader for 'coco'"):
        check_dataset("coco", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        check_dataset("vipseg", tmp_path / "nowhere")


def test_the_command_says_it_and_fails_where_something_is_missing(root: Path) -> None:
    def run(*more: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["data", "check", "ref-youtube-vos", "--root", str(root), *more])
        return result.exit_code, " ".join(result.output.split())

    code, output = run()
    assert (code, "│ train │ 3 │ 12 │ 0 │" in output) == (0, True)
    assert run("--split", "valid")[0] == 1
    (root / "train" / "JPEGImages" / "v" / "1.jpg").unlink()
    code, output = run()
    assert (code, "missing " in output, "1.jpg" in output) == (1, True, True)


def test_the_command_makes_v_vgd_of_the_made_up_world(tmp_path: Path) -> None:
    made = CliRunner().invoke(
        app, ["data", "make-vgd", "synthetic", "-o", str(tmp_path), "--clips", "2", "--pictures", "1"]
    )
    assert made.exit_code == 0, made.output
    assert "2 videos, 16 frames" in " ".join(made.output.split())
    checked = CliRunner().invoke(app, ["data", "check", "v-vgd-synthetic", "--root", str(tmp_path)])
    assert checked.exit_code == 0, checked.output
    for wrong in (["yt19"], ["synthetic", "--root", str(tmp_path)], ["yt19", "--root", str(tmp_path)]):
        assert CliRunner().invoke(app, ["data", "make-vgd", *wrong, "-o", str(tmp_path / "x")]).exit_code == 1
