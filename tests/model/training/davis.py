"""A data set in the layout of Ref-DAVIS17, made on the spot: two videos of a moving square."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

VIDEOS = {"bear": (6, 48, 80), "ant": (3, 60, 44)}


def make_davis(root: Path) -> Path:
    listed = {}
    for number, (video, (length, height, width)) in enumerate(VIDEOS.items()):
        frames = [f"{index:05d}" for index in range(length)]
        listed[video] = {
            "frames": frames,
            "expressions": {"0": {"exp": f"the {video}", "obj_id": "1"}, "1": {"exp": "a square", "obj_id": "1"}},
        }
        for index, frame in enumerate(frames):
            _write_frame(root / "train", video, frame, (height, width), 4 + 5 * index, 40 + 150 * number)
    expressions = root / "meta_expressions" / "train"
    expressions.mkdir(parents=True)
    (expressions / "meta_expressions.json").write_text(json.dumps({"videos": listed}))
    return root


def _write_frame(folder: Path, video: str, name: str, size: tuple[int, int], left: int, shade: int) -> None:
    mask = np.zeros(size, dtype=np.uint8)
    mask[10:30, left : left + 14] = 1
    picture = np.full((*size, 3), 90, dtype=np.uint8)
    picture[mask == 1] = (shade, 200, 30)
    for kind, suffix, image in (
        ("JPEGImages", "jpg", Image.fromarray(picture)),
        ("Annotations", "png", _indexed(mask)),
    ):
        place = folder / kind / video
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{name}.{suffix}")


def _indexed(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return image
