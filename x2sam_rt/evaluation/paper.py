"""The tables of X2SAM's paper: what they are made of, what of it a user has, and our scores beside the paper's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from x2sam_rt.errors import ConfigError, DataError
from x2sam_rt.evaluation.parts import Part, open_parts
from x2sam_rt.evaluation.results import Evaluation

PROMPTS = ("point", "box")  # the paper's; scribble and mask are evaluated the same way


@dataclass(frozen=True, eq=False)
class PaperRow:
    """One data set and split of the paper. folder: in X2SAM's layout, below its root. scores: the names that ours have,
    in the paper's order, with what the paper calls them."""

    group: str
    dataset: str
    split: str
    folder: str
    scores: Mapping[str, str]

    @property
    def key(self) -> str:
        return f"{self.dataset} {self.split}"


_PQ, _MIOU = {"PQ": "PQ"}, {"mIoU": "mIoU"}
_AP = {"AP": "AP", "AP50": "AP50"}
_FRAME_AP = {"AP of frames": "AP", "AP50 of frames": "AP50"}
_VIPSEG = {"VPQ": "VPQ", "STQ as published": "STQ"}
_J_AND_F = {"J over frames": "J", "F over frames": "F", "J&F over frames": "J&F"}
_COCO, _ADE, _REFS = "img_genseg/coco2017", "img_ovseg/ade20k", "img_refseg/refcocos"
ROWS: tuple[PaperRow, ...] = (
    PaperRow("image generic", "coco-panoptic", "val2017", _COCO, _PQ),
    PaperRow("image generic", "coco-semantic", "val2017", _COCO, _MIOU),
    PaperRow("image generic", "coco-instance", "val2017", _COCO, _AP),
    PaperRow("image open vocabulary", "ade20k-panoptic", "val", _ADE, _PQ),
    PaperRow("image open vocabulary", "ade20k-semantic", "val", _ADE, _MIOU),
    PaperRow("image open vocabulary", "ade20k-instance", "val", _ADE, _AP),
    *(
        PaperRow("image referring", name, split, _REFS, {"cIoU": "cIoU"})
        for name, splits in (
            ("refcoco", ("val", "testA", "testB")),
            ("refcoco+", ("val", "testA", "testB")),
            ("refcocog", ("val", "test")),
        )
        for split in splits
    ),
    *(PaperRow("image referring", "grefcoco", split, _REFS, {"gIoU": "gIoU"}) for split in ("val", "testA", "testB")),
    *(
        PaperRow("image reasoning", "reasonseg", split, "img_reaseg/lisa", {"gIoU": "gIoU", "cIoU": "cIoU"})
        for split in ("val", "test")
    ),
    *(
        PaperRow(
            "image GCG",
            "gcg-image",
            split,
            "img_gcgseg/grand_f",
            {"METEOR": "METEOR", "CIDEr": "CIDEr", "AP50 of masks": "AP50", "mIoU of masks": "mIoU"},
        )
        for split in ("val", "test")
    ),
    *(
        PaperRow("image interactive", "coco-interactive", f"val/{prompt}", "img_intseg/coco_int", {"gIoU": "mIoU"})
        for prompt in ("point", "scribble", "box", "mask")
    ),
    *(PaperRow("image VGD", "coco-vgd", f"val/{prompt}", "img_vgdseg/coco_vgd", _FRAME_AP) for prompt in PROMPTS),
    PaperRow("video generic", "vipseg", "val", "vid_genseg/vipseg_720p", _VIPSEG),
    PaperRow(
        "video generic",
        "vspw",
        "val",
        "vid_genseg/vspw_480p",
        {"mIoU": "mIoU", "mVC@8": "mVC8", "mVC@16": "mVC16"},
    ),
    PaperRow("video generic", "youtube-vis19", "valid", "vid_genseg/ytvis19", _FRAME_AP),
    PaperRow("video open vocabulary", "youtube-vis21", "valid", "vid_ovseg/ytvis21", _FRAME_AP),
    PaperRow("video referring", "ref-youtube-vos", "valid", "vid_refseg/ytrvos21", _J_AND_F),
    PaperRow("video referring", "ref-davis17", "valid", "vid_refseg/davis17", _J_AND_F),
    PaperRow(
        "video reasoning",
        "revos",
        "valid",
        "vid_reaseg/revos",
        {
            "J&F over frames, referring": "J&F, referring",
            "J&F over frames, reasoning": "J&F, reasoning",
            "J&F over frames": "J&F, all",
        },
    ),
    PaperRow(
        "video GCG",
        "gcg-video",
        "test",
        "vid_gcgseg/video_glamm",
        {"mIoU of masks": "mIoU", "recall of phrases": "recall", "METEOR": "METEOR", "CIDEr": "CIDEr"},
    ),
    PaperRow(
        "video object",
        "youtube-vos",
        "valid",
        "vid_objseg/ytvos19",
        {
            "J&F over frames, seen": "J&F, seen",
            "J&F over frames, unseen": "J&F, unseen",
            "J&F over frames": "J&F, all",
        },
    ),
    *(
        PaperRow("video VGD", f"v-vgd-{name}", f"val/{prompt}", f"vid_vgdseg/{folder}", _FRAME_AP)
        for name, folder in (("yt19", "ytvis_vgd"), ("vipseg", "vipseg_vgd"))
        for prompt in PROMPTS
    ),
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
        folder = folders.get(row.dataset, None if root is None else root / row.folder)
        if folder is None:
            missing[row] = "no folder given"
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
