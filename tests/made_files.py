"""Tiny files in the layouts of public data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
SIZE = (9, 13)  # rows, columns


def write_json(path: Path, document: Any, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False), encoding=encoding)


def write_frame(path: Path, seed: int, size: tuple[int, int] = SIZE) -> Pixels:
    """Noise; PNG whatever its name says, so that it can be compared exactly."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(*size, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
    return pixels


def write_indices(path: Path, indices: npt.NDArray[np.integer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(bytes(range(256)) * 3)
    image.save(path)


def write_ids(path: Path, ids: npt.NDArray[np.integer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(path)


def rectangle(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = SIZE) -> Mask:
    mask = np.zeros(size, dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def packed(mask: Mask) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def unpacked(mask: Mask) -> dict[str, Any]:
    """Run lengths as numbers, counted here."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


EXIF_ORIENTATION = 274


def write_turned(path: Path, pixels: npt.NDArray[np.uint8], orientation: int) -> None:
    """A PNG that says how it must be turned."""
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[EXIF_ORIENTATION] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG", exif=exif)


def write_vgd_source(source: str, recorded: Mapping[str, Any], root: Path) -> Path:
    """The annotations that a recorded V-VGD file was made from, as YouTube-VIS ("yt19") or VIPSeg ("vipseg") has them,
    with frames; a folder."""
    truth, built = recorded["ground_truth"], recorded["built"]
    if source == "yt19":
        write_json(root / "valid" / "instances.json", truth)
        for video in truth["videos"]:
            for number, file in enumerate(video["file_names"]):
                write_frame(root / "valid" / "JPEGImages" / file, number, (video["height"], video["width"]))
        return root
    write_json(root / "panoptic_gt_VIPSeg_val.json", truth)
    sizes = {video["video_id"]: (video["height"], video["width"]) for video in truth["videos"]}
    objects = {
        file: ones for video in built for file, ones in zip(video["image_files"], video["annotations"], strict=True)
    }
    for video in truth["annotations"]:
        size = sizes[video["video_id"]]
        for frame in video["annotations"]:
            name = f"{video['video_id']}/{frame['image_id']}"
            write_frame(root / "images" / f"{name}.jpg", 1, size)
            ids = np.zeros(size, dtype=np.int32)
            for one in objects.get(f"{name}.jpg", ()):
                ids[coco_mask.decode(one["segmentation"]).astype(bool)] = one["id"] // 100
            write_ids(root / "panomasksRGB" / video["video_id"] / frame["file_name"], ids)
    return root
