"""The tables of X2SAM's paper: what they are made of, what of it a user has, and our scores beside the paper's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from x2sam_rt.data.readers import READERS
from x2sam_rt.errors import ConfigError, DataError
from x2sam_rt.evaluation.parts import Part, open_parts
from x2sam_rt.evaluation.results import Evaluation
from x2sam_rt.tasks.regions import PROMPT_KINDS


@dataclass(frozen=True, eq=False)
class PaperRow:
    """One data set and split of the paper. scores: the names that ours have, in the paper's order, with what the paper
    calls them."""

    group: str
    dataset: str
    split: str
    scores: Mapping[str, str]

    @property
    def key(self) -> str:
        return f"{self.dataset} {self.split}"


_PQ, _MIOU = {"PQ": "PQ"}, {"mIoU": "mIoU"}
_AP = {"AP": "AP", "AP50": "AP50"}
_FRAME_AP = {"AP of frames": "AP", "AP50 of frames": "AP50"}
_VIPSEG = {"VPQ": "VPQ", "STQ as published": "STQ"}
_J_AND_F = {"J over frames": "J", "F over frames": "F", "J&F over frames": "J&F"}
_IOUS = {"gIoU": "gIoU", "cIoU": "cIoU"}
_WORDS = {"METEOR": "METEOR", "CIDEr": "CIDEr"}
_IMAGE_CAPTIONS = _WORDS | {"AP50 of masks": "AP50", "mIoU of masks": "mIoU"}
_VIDEO_CAPTIONS = {"mIoU of masks": "mIoU", "recall of phrases": "recall"} | _WORDS
_SCENES = {"mIoU": "mIoU", "mVC@8": "mVC8", "mVC@16": "mVC16"}


def _j_and_f_of(*tags: str) -> Mapping[str, str]:
    return {f"J&F over frames, {tag}": f"J&F, {tag}" for tag in tags} | {"J&F over frames": "J&F, all"}


def _rows(group: str, dataset: str, splits: Sequence[str], scores: Mapping[str, str]) -> tuple[PaperRow, ...]:
    return tuple(PaperRow(group, dataset, split, scores) for split in splits)


_REF_SPLITS = ("val", "testA", "testB")
_PROMPTED = ("val/point", "val/box")  # the paper's; scribble and mask are evaluated the same way
ROWS: tuple[PaperRow, ...] = (
    *_rows("image generic", "coco-panoptic", ["val2017"], _PQ),
    *_rows("image generic", "coco-semantic", ["val2017"], _MIOU),
    *_rows("image generic", "coco-instance", ["val2017"], _AP),
    *_rows("image open vocabulary", "ade20k-panoptic", ["val"], _PQ),
    *_rows("image open vocabulary", "ade20k-semantic", ["val"], _MIOU),
    *_rows("image open vocabulary", "ade20k-instance", ["val"], _AP),
    *_rows("image referring", "refcoco", _REF_SPLITS, {"cIoU": "cIoU"}),
    *_rows("image referring", "refcoco+", _REF_SPLITS, {"cIoU": "cIoU"}),
    *_rows("image referring", "refcocog", ["val", "test"], {"cIoU": "cIoU"}),
    *_rows("image referring", "grefcoco", _REF_SPLITS, {"gIoU": "gIoU"}),
    *_rows("image reasoning", "reasonseg", ["val", "test/short", "test/long", "test"], _IOUS),
    *_rows("image GCG", "gcg-image", ["val", "test"], _IMAGE_CAPTIONS),
    *_rows("image interactive", "coco-interactive", [f"val/{kind}" for kind in PROMPT_KINDS], {"gIoU": "mIoU"}),
    *_rows("image VGD", "coco-vgd", _PROMPTED, _FRAME_AP),
    *_rows("video generic", "vipseg", ["val"], _VIPSEG),
    *_rows("video generic", "vspw", ["val"], _SCENES),
    *_rows("video generic", "youtube-vis19", ["valid"], _FRAME_AP),
    *_rows("video open vocabulary", "youtube-vis21", ["valid"], _FRAME_AP),
    *_rows("video referring", "ref-youtube-vos", ["valid"], _J_AND_F),
    *_rows("video referring", "ref-davis17", ["valid"], _J_AND_F),
    *_rows("video reasoning", "revos", ["valid"], _j_and_f_of("referring", "reasoning")),
    *_rows("video GCG", "gcg-video", ["test"], _VIDEO_CAPTIONS),
    *_rows("video object", "youtube-vos", ["valid"], _j_and_f_of("seen", "unseen")),
    *_rows("video VGD", "v-vgd-yt19", _PROMPTED, _FRAME_AP),
    *_rows("video VGD", "v-vgd-vipseg", _PROMPTED, _FRAME_AP),
)


@dataclass(frozen=True)
class Available:
    """What of the paper can be run. parts: by row. missing: why the other rows cannot."""

    parts: Mapping[PaperRow, tuple[Part, ...]]
    missing: Mapping[PaperRow, str]


def find_rows(root: Path | None, folders: Mapping[str, Path], *, bert: Path | None = None) -> Available:
    """Opens every data set that is there. root: X2SAM's `datas`; folders: of data sets that lie elsewhere, by name.

    Raises ConfigError for the name of a data set that the paper does not have.
    """
    if unknown := sorted(set(folders) - {row.dataset for row in ROWS}):
        raise ConfigError(f"The paper has no data set {', '.join(unknown)}; it has {', '.join(_names())}.")
    parts, missing = dict[PaperRow, tuple[Part, ...]](), dict[PaperRow, str]()
    for row in ROWS:
        folder = folders.get(row.dataset, None if root is None else root / READERS[row.dataset].home)
        if folder is None or not folder.is_dir():
            missing[row] = "no folder given" if folder is None else f"no folder {folder}"
            continue
        try:
            parts[row] = open_parts(row.dataset, folder, row.split, bert=bert)
        except DataError as error:
            missing[row] = str(error)
    return Available(parts, missing)


def read_paper_scores(path: Path | None) -> Mapping[str, Mapping[str, float]]:
    """The paper's scores, in percent, by "data set split" and by what the paper calls them; None = none are at hand.

    Raises ConfigError for a file that is not of this form, and for rows the paper does not have.
    """
    if path is None:
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        scores = {key: {name: float(value) for name, value in row.items()} for key, row in document.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path}: is no JSON of the form {{'vipseg val': {{'VPQ': 50.0}}}} ({error}).") from error
    if unknown := sorted(set(scores) - {row.key for row in ROWS}):
        raise ConfigError(f"{path}: has rows the paper has not: {', '.join(unknown)}.")
    return scores


def paper_table(
    found: Mapping[PaperRow, Evaluation], missing: Mapping[PaperRow, str], paper: Mapping[str, Mapping[str, float]]
) -> Table:
    """A row per score of the paper: what it says, what every variant reached, and why a row was not run."""
    labels = list(dict.fromkeys(variant.label for one in found.values() for variant in one.variants))
    table = Table(title="X2SAM's tables, in percent")
    for name in ("table", "data set", "score", "paper", *labels, "not run"):
        table.add_column(name, justify="right" if name in ("paper", *labels) else "left")
    above = None
    for row in ROWS:
        if above not in (None, row.group):
            table.add_section()
        for name, called in row.scores.items():
            theirs = paper.get(row.key, {}).get(called)
            ours = [_cell(found.get(row), label, name) for label in labels]
            reason = missing.get(row, "") if name == next(iter(row.scores)) else ""
            theirs_text = "–" if theirs is None else f"{theirs:.1f}"
            table.add_row(row.group if row.group != above else "", row.key, called, theirs_text, *ours, reason)
            above = row.group
    return table


def _cell(evaluation: Evaluation | None, label: str, name: str) -> str:
    if evaluation is None:
        return "–"
    for variant in evaluation.variants:
        if variant.label == label:
            for score in (score for part in variant.parts for score in part.scores):
                if score.name == name:
                    return f"{100 * score.value:.1f}"
    return "–"


def _names() -> Sequence[str]:
    return list(dict.fromkeys(row.dataset for row in ROWS))
