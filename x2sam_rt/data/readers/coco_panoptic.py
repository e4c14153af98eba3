"""Panoptic segmentation of images: COCO.

    <root>/annotations/panoptic_<split>.json
    <root>/annotations/panoptic_<split>/<annotation's file name>      ids as R + 256·G + 65536·B
    <root>/<split>/<image's file name>                                <split>: val2017, …

The JSON: "images" [{id, file_name}], "annotations" [{image_id, file_name, segments_info: [{id, category_id,
iscrowd}]}], "categories" [{id, name, isthing}]. Each image is an example.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.readers.categories import CategoryList
from x2sam_rt.data.readers.files import in_layout, read_json
from x2sam_rt.data.readers.panoptic_segments import PanopticFile, PanopticSample, segment_labels
from x2sam_rt.errors import DataError


def read_coco_panoptic(root: Path, split: str) -> Dataset:
    """COCO's panoptic task (Kirillov et al., CVPR 2019). Raises DataError."""
    path = root / "annotations" / f"panoptic_{split}.json"
    document = read_json(path)
    with in_layout(path, "COCO panoptic"):
        if not document.get("annotations"):
            raise DataError(f"{path}: lists no annotations, so the split {split!r} has no ground truth.")
        categories = CategoryList.of(document["categories"])
        images = {image["id"]: root / split / image["file_name"] for image in document["images"]}
        samples = [_sample(entry, path, images, categories, split) for entry in document["annotations"]]
    return Dataset("coco-panoptic", "panoptic_image", tuple(samples), categories.things, categories.stuff)


def _sample(
    entry: dict[str, Any], path: Path, images: dict[int, Path], categories: CategoryList, split: str
) -> PanopticSample:
    image = entry["image_id"]
    if image not in images:
        raise DataError(f"{path}: the annotation of image {image}, which is not listed.")
    labels = segment_labels(entry["segments_info"], categories, f"{path}, image {image}")
    file = PanopticFile(images[image], path.with_suffix("") / entry["file_name"], labels)
    return PanopticSample(f"coco-panoptic/{split}/{image}", "image", (file,), categories)
