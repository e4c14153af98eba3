"""Video instance segmentation: YouTube-VIS.

    <root>/<split>/instances.json       2021; the 2019 edition's is <root>/<split>.json
    <root>/<split>/JPEGImages/<file name>

The JSON is COCO's with videos: "videos" [{id, file_names}], "annotations" [{id, video_id, category_id, iscrowd,
segmentations: [run lengths or null, one per frame]}], "categories" [{id, name}]. Each video is an example.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers.annotated import AnnotatedExample
from x2sam_rt.data.readers.categories import CategoryList
from x2sam_rt.data.readers.files import in_layout, read_frames, read_json
from x2sam_rt.data.readers.segmentation import decode_segmentation
from x2sam_rt.errors import DataError
from x2sam_rt.tasks.instruction import Instruction


@dataclass(frozen=True, eq=False)
class Track:
    """segmentations: as they stand in the file, one per frame."""

    id: int
    condition: int
    crowd: bool
    segmentations: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class VideoSample:
    name: str
    origin: Path
    frames: tuple[Path, ...]
    tracks: tuple[Track, ...]
    things: tuple[str, ...]

    def load(self) -> Example:
        frames = read_frames(self.name, self.frames)
        targets = [(track.crowd, self._target(track, frames.shape[1], frames.shape[2])) for track in self.tracks]
        return AnnotatedExample(
            name=self.name,
            media="video",
            frames=frames,
            instruction=Instruction("instance", things=self.things),
            conditions=len(self.things),
            targets=tuple(target for crowd, target in targets if not crowd),
            crowds=tuple(target for crowd, target in targets if crowd),
        )

    def _target(self, track: Track, height: int, width: int) -> Target:
        try:
            masks = [decode_segmentation(one, height, width) for one in track.segmentations]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"Example {self.name}: {self.origin}, annotation {track.id}: {error}.") from error
        return Target(track.condition, np.stack(masks), track.id)


def read_youtube_vis(root: Path, split: str) -> Dataset:
    """YouTube-VIS (Yang et al., ICCV 2019), any edition; only "train" was published with masks. Raises DataError."""
    path = root / split / "instances.json"
    if not path.is_file() and (root / f"{split}.json").is_file():
        path = root / f"{split}.json"
    document = read_json(path)
    with in_layout(path, "YouTube-VIS"):
        if not document.get("annotations"):
            raise DataError(f"{path}: lists no annotations, so the split {split!r} has no ground truth.")
        categories = CategoryList.of(document["categories"])
        lengths = {video["id"]: len(video["file_names"]) for video in document["videos"]}
        tracks = defaultdict(list)
        for entry in document["annotations"]:
            tracks[entry["video_id"]].append(_track(entry, categories, lengths, path))
        samples = [
            VideoSample(
                name=f"youtube-vis/{split}/{video['id']}",
                origin=path,
                frames=tuple(root / split / "JPEGImages" / file for file in video["file_names"]),
                tracks=tuple(tracks[video["id"]]),
                things=categories.things,
            )
            for video in document["videos"]
        ]
    return Dataset("youtube-vis", "ap_video", tuple(samples), categories.things)


def _track(entry: dict[str, Any], categories: CategoryList, lengths: dict[int, int], path: Path) -> Track:
    origin = f"{path}, annotation {entry['id']}"
    if entry["video_id"] not in lengths:
        raise DataError(f"{origin}: belongs to video {entry['video_id']}, which is not listed.")
    if len(entry["segmentations"]) != lengths[entry["video_id"]]:
        raise DataError(
            f"{origin}: has masks for {len(entry['segmentations'])} frames; wanted {lengths[entry['video_id']]}, "
            f"the frames of video {entry['video_id']}."
        )
    return Track(
        id=int(entry["id"]),
        condition=categories.condition(entry["category_id"], origin),
        crowd=bool(entry.get("iscrowd", 0)),
        segmentations=tuple(entry["segmentations"]),
    )
