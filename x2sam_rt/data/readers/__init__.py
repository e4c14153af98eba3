"""Public data sets, read from the folders they come in: a row each. The files of this room show what must be there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from x2sam_rt.data.dataset import Dataset, Metric
from x2sam_rt.data.readers.ade20k import read_ade20k_instance, read_ade20k_panoptic, read_ade20k_semantic
from x2sam_rt.data.readers.annotated import AnnotatedExample, CaptionedExample, PromptedExample
from x2sam_rt.data.readers.captions import read_gcg_image, read_gcg_video
from x2sam_rt.data.readers.expressions import (
    REASONING,
    REFERRING,
    read_mevis,
    read_ref_davis17,
    read_ref_youtube_vos,
    read_revos,
)
from x2sam_rt.data.readers.folders import DataFolder, open_folder
from x2sam_rt.data.readers.instances import read_coco_instance, read_sa_1b, read_youtube_vis
from x2sam_rt.data.readers.label_maps import read_coco_panoptic, read_coco_semantic, read_vipseg, read_vspw
from x2sam_rt.data.readers.phrases import LONG, SHORT, read_grefcoco, read_reasonseg, read_refcoco
from x2sam_rt.data.readers.prompted import (
    SEEN,
    UNSEEN,
    read_coco_interactive,
    read_coco_vgd,
    read_vgd_synthetic,
    read_vgd_vipseg,
    read_vgd_yt19,
    read_youtube_vos,
)
from x2sam_rt.data.readers.sample import Contents, FileSample
from x2sam_rt.documents import there_is_no
from x2sam_rt.errors import DataError
from x2sam_rt.tasks.regions import PROMPT_KINDS
from x2sam_rt.tasks.table import Media

__all__ = [
    "READERS",
    "AnnotatedExample",
    "CaptionedExample",
    "FileSample",
    "PromptedExample",
    "Reader",
    "read_dataset",
    "read_folder",
]


@dataclass(frozen=True)
class Reader:
    """task: of the table of tasks. splits: those there are; others of the same layout can be read too. parts: of each
    split, written behind a slash. home: where X2SAM's `datas` has the set."""

    task: str
    media: Media
    metric: Metric
    read: Callable[[DataFolder], Contents]
    splits: tuple[str, ...]
    home: str
    parts: tuple[str, ...] = ()


_COCO, _COCO_SPLITS = "img_genseg/coco2017", ("val2017", "train2017")
_ADE, _TRAINED, _REFS = "img_ovseg/ade20k", ("val", "train"), "img_refseg/refcocos"
_REF_SPLITS = ("val", "testA", "testB", "train")

READERS: dict[str, Reader] = {
    "coco-panoptic": Reader("panoptic", "image", "panoptic_image", read_coco_panoptic, _COCO_SPLITS, _COCO),
    "coco-semantic": Reader("semantic", "image", "semantic", read_coco_semantic, _COCO_SPLITS, _COCO),
    "coco-instance": Reader("instance", "image", "ap_image", read_coco_instance, _COCO_SPLITS, _COCO),
    "sa-1b": Reader("instance", "image", "ap_image", read_sa_1b, ("train",), "sa-1b"),
    "ade20k-panoptic": Reader("panoptic", "image", "panoptic_image", read_ade20k_panoptic, _TRAINED, _ADE),
    "ade20k-semantic": Reader("semantic", "image", "semantic", read_ade20k_semantic, _TRAINED, _ADE),
    "ade20k-instance": Reader("instance", "image", "ap_image", read_ade20k_instance, _TRAINED, _ADE),
    "refcoco": Reader("referring", "image", "giou", read_refcoco, _REF_SPLITS, _REFS),
    "refcoco+": Reader("referring", "image", "giou", read_refcoco, _REF_SPLITS, _REFS),
    "refcocog": Reader("referring", "image", "giou", read_refcoco, ("val", "test", "train"), _REFS),
    "grefcoco": Reader("referring", "image", "giou", read_grefcoco, _REF_SPLITS, _REFS),
    "reasonseg": Reader(
        "reasoning", "image", "giou", read_reasonseg, ("val", "test", "train"), "img_reaseg/lisa", (SHORT, LONG)
    ),
    "gcg-image": Reader("gcg", "image", "gcg_image", read_gcg_image, ("val", "test"), "img_gcgseg/grand_f"),
    "coco-interactive": Reader(
        "interactive", "image", "giou", read_coco_interactive, ("val",), "img_intseg/coco_int", PROMPT_KINDS
    ),
    "coco-vgd": Reader("vgd", "image", "vgd_image", read_coco_vgd, _TRAINED, "img_vgdseg/coco_vgd", PROMPT_KINDS),
    "vipseg": Reader("panoptic", "video", "panoptic_video", read_vipseg, _TRAINED, "vid_genseg/vipseg_720p"),
    "vspw": Reader("semantic", "video", "semantic_video", read_vspw, _TRAINED, "vid_genseg/vspw_480p"),
    "youtube-vis19": Reader(
        "instance", "video", "ap_video", read_youtube_vis, ("valid", "train"), "vid_genseg/ytvis19"
    ),
    "youtube-vis21": Reader("instance", "video", "ap_video", read_youtube_vis, ("valid", "train"), "vid_ovseg/ytvis21"),
    "ref-youtube-vos": Reader(
        "referring", "video", "j_and_f", read_ref_youtube_vos, ("valid", "train"), "vid_refseg/ytrvos21"
    ),
    "ref-davis17": Reader("referring", "video", "j_and_f", read_ref_davis17, ("valid", "train"), "vid_refseg/davis17"),
    "revos": Reader(
        "reasoning",
        "video",
        "j_and_f",
        read_revos,
        ("valid", "train"),
        "vid_reaseg/revos",
        (REFERRING, REASONING),
    ),
    "mevis": Reader("referring", "video", "j_and_f", read_mevis, ("valid_u", "train"), "vid_refseg/mevis"),
    "gcg-video": Reader("gcg", "video", "gcg_video", read_gcg_video, ("test", "train"), "vid_gcgseg/video_glamm"),
    "youtube-vos": Reader(
        "object", "video", "j_and_f", read_youtube_vos, ("valid", "train"), "vid_objseg/ytvos19", (SEEN, UNSEEN)
    ),
    "v-vgd-yt19": Reader("vgd", "video", "vgd_video", read_vgd_yt19, _TRAINED, "vid_vgdseg/ytvis_vgd", PROMPT_KINDS),
    "v-vgd-vipseg": Reader(
        "vgd", "video", "vgd_video", read_vgd_vipseg, _TRAINED, "vid_vgdseg/vipseg_vgd", PROMPT_KINDS
    ),
    "v-vgd-synthetic": Reader(
        "vgd", "video", "vgd_video", read_vgd_synthetic, ("val",), "vid_vgdseg/synthetic_vgd", PROMPT_KINDS
    ),
}


def read_dataset(name: str, root: str | Path, split: str) -> Dataset:
    """The examples of a public data set, loaded when they are asked for.

    name: one of READERS. root: its folder, or X2SAM's `datas`. split: "val", or a part of one, "test/short". Raises
    DataError for an unknown name, a folder that is in no known layout, and a split without ground truth.
    """
    if name not in READERS:
        raise DataError(there_is_no("reader for", name, READERS))
    row = READERS[name]
    found = read_folder(open_folder(name, Path(root), row.home, split, row.parts))
    categories = found.categories
    if categories is None:
        return Dataset(name, row.metric, found.samples)
    return Dataset(name, row.metric, found.samples, categories.things, categories.stuff, categories.order)


def read_folder(folder: DataFolder) -> Contents:
    """The samples alone, which say what files each opens. Raises DataError as read_dataset does."""
    found = READERS[folder.name].read(folder)
    if not found.samples:
        raise DataError(f"{folder.root}: the split {folder.full_split!r} of {folder.name} holds no examples.")
    return found
