"""Panoptic segmentation of videos: VIPSeg, converted to 720p and COCO's form by its own tools.

    <root>/panoptic_gt_VIPSeg_<split>.json
    <root>/panomasksRGB/<video>/<annotation's file name>      ids as R + 256·G + 65536·B
    <root>/images/<video>/<image's id>.jpg

The JSON: "videos" [{video_id, images: [{id, file_name}]}], "annotations" [{video_id, annotations: [{image_id,
file_name, segments_info: [{id, category_id, iscrowd}]}]}], "categories" [{id, name, isthing}]. Ids are the same
through a video. Each video is an example.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.readers.categories import CategoryList
from x2sam_rt.data.readers.files import in_layout, read_json
from x2sam_rt.data.readers.panoptic_segments import PanopticFile, PanopticSample, segment_labels
from x2sam_rt.errors import DataError


def read_vipseg(root: Path, split: str) -> Dataset:
    """VIPSeg (Miao et al., CVPR 2022). root: the folder VIPSeg_720P. Raises DataError."""
    path = root / f"panoptic_gt_VIPSeg_{split}.json"
    document = read_json(path)
    with in_layout(path, "VIPSeg"):
        categories = CategoryList.of(document["categories"])
        annotations = {entry["video_id"]: entry["annotations"] for entry in document["annotations"]}
        samples = []
        for video in document["videos"]:
            name = video["video_id"]
            if len(annotations.get(name, ())) != len(video["images"]):
                raise DataError(
                    f"{path}: video {name} has {len(video['images'])} frames and annotations of "
                    f"{len(annotations.get(name, ()))}; wanted one each. A test split has no ground truth."
                )
            files = tuple(_file(root, path, name, entry, categories) for entry in annotations[name])
            samples.append(PanopticSample(f"vipseg/{split}/{name}", "video", files, categories))
    return Dataset("vipseg", "panoptic_video", tuple(samples), categories.things, categories.stuff)


def _file(root: Path, path: Path, video: str, entry: dict[str, Any], categories: CategoryList) -> PanopticFile:
    labels = segment_labels(entry["segments_info"], categories, f"{path}, video {video}, frame {entry['image_id']}")
    image = root / "images" / video / f"{entry['image_id']}.jpg"
    return PanopticFile(image, root / "panomasksRGB" / video / entry["file_name"], labels)
