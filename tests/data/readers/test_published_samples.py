"""Real annotations of public data sets (tests/fixtures/published), with made frames and maps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_files import write_frame, write_ids
from recordings import FIXTURES

from x2sam_rt.data.readers import AnnotatedExample, read_dataset
from x2sam_rt.errors import DataError

PUBLISHED = FIXTURES / "published"


def place(name: str, path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(PUBLISHED / name, path)
    return json.loads(path.read_text())


def test_segments_of_coco(tmp_path: Path) -> None:
    document = place("coco_panoptic.json", tmp_path / "annotations" / "panoptic_val2017.json")
    segments = document["annotations"][0]["segments_info"]
    ids = np.zeros((427, 640), dtype=np.int32)
    for number, segment in enumerate(segments):  # a strip each: where they lay is not in the list
        ids[20 * number : 20 * (number + 1)] = segment["id"]
    write_ids(tmp_path / "panoptic_val2017" / "000000142238.png", ids)
    write_frame(tmp_path / "val2017" / "000000142238.jpg", 1, (427, 640))
    dataset = read_dataset("coco-panoptic", tmp_path, "val2017")
    assert (dataset.things, dataset.stuff) == (("person", "sports ball"), ("tree", "sky other", "grass"))
    (example,) = dataset
    assert example.name == "coco-panoptic/val2017/142238"
    assert isinstance(example, AnnotatedExample)
    assert [crowd.id for crowd in example.crowds] == [3153362]
    names = example.instruction.things + example.instruction.stuff
    assert [names[target.condition] for target in example.targets] == [
        *["person"] * 13,
        "sports ball",
        "tree",
        "sky other",
        "grass",
    ]
    for target in example.targets:
        np.testing.assert_array_equal(target.masks[0], ids == target.id)


def test_run_lengths_of_youtube_vis_lie_where_their_boxes_say(tmp_path: Path) -> None:
    document = place("youtube_vis.json", tmp_path / "train.json")
    for file in document["videos"][0]["file_names"]:
        write_frame(tmp_path / "train" / "JPEGImages" / file, 1, (720, 1280))
    dataset = read_dataset("youtube-vis19", tmp_path, "train")
    assert dataset.things == ("sedan", "earless seal")
    (example,) = dataset
    for target, entry in zip(example.targets, document["annotations"], strict=True):
        for frame, (area, box) in enumerate(zip(entry["areas"], entry["bboxes"], strict=True)):
            rows, columns = np.nonzero(target.masks[frame])
            assert len(rows) == (area or 0)
            if box is not None:
                left, top, width, height = box
                assert (columns.min(), rows.min()) == (left, top)
                assert (columns.max() + 1, rows.max() + 1) == (left + width, top + height)


def test_expressions_of_ref_youtube_vos_s_valid_have_no_public_truth(tmp_path: Path) -> None:
    path = tmp_path / "meta_expressions" / "valid" / "meta_expressions.json"
    document = place("ref_youtube_vos_valid.json", path)
    (tmp_path / "valid" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(DataError, match="has no Annotations folder, so the split 'valid' has no ground truth here"):
        read_dataset("ref-youtube-vos", tmp_path, "valid")
    (tmp_path / "valid" / "Annotations").mkdir()
    with pytest.raises(DataError, match="does not say which objects are meant"):
        read_dataset("ref-youtube-vos", tmp_path, "valid")
    for expression in document["videos"]["0390fabe58"]["expressions"].values():
        expression["obj_id"] = "1"  # as X2SAM's own file has it
    path.write_text(json.dumps(document))
    samples = read_dataset("ref-youtube-vos", tmp_path, "valid").samples
    assert [sample.name for sample in samples] == [f"ref-youtube-vos/valid/0390fabe58/{number}" for number in (0, 1)]
