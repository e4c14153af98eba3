"""The demonstration: export the embedded checkpoint, stream a video through it, show masks and times.

python -m x2sam_rt.cli.demo FOLDER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from x2sam_rt.cli.terminal import console, reporting, with_progress
from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.media.image import write_image
from x2sam_rt.media.sources import VideoFile
from x2sam_rt.media.video import VideoWriter, pick_frames
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.runtime.profile import draw_profile, profile_run, profile_table, write_profile
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.writers.opening import OutputPlan, RunOutputs
from x2sam_rt.tasks.instruction import Instruction

_SIDE, _FRAMES, _RATE = 384, 96, 24
_SEED = 0
_SHOWN = 4  # frames of the picture
# Colours go for a second: then only the memory knows which object was meant.
_WORLD = ClipSettings(
    side=_SIDE, frames=_FRAMES, desaturated=1, desaturated_frames=24, same_colour=1, occluder=0, twins=0
)


def write_clip(path: Path) -> str:
    """Writes a made-up video of moving shapes. Returns what names one of them."""
    clip = make_clip(_SEED, _WORLD)
    with VideoWriter(path, _SIDE, _SIDE, _RATE) as video:
        for frame in clip.frames:
            video.write(frame)
    named = clip.objects[clip.focus]
    return f"the {named.colour} {named.shape}"


def draw_strip(video: Path, picture: Path) -> None:
    """A few frames of a video side by side."""
    frames = pick_frames(video, _SHOWN).spread
    write_image(picture, np.hstack([frame.pixels for frame in frames]))


def run_demo(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    clip, bundle = folder / "clip.mp4", folder / "bundle"
    prompt = write_clip(clip)
    console.print(f"exporting the embedded checkpoint to {bundle} …")
    plan = ExportPlan(load_checkpoint(embedded_checkpoint()), "onnxruntime")
    export_bundle(plan, bundle, overwrite=bundle.exists())
    with Runtime.load(bundle) as runtime:
        written = OutputPlan((folder / "masked.mp4", folder / "masks.jsonl"), overwrite=True)
        started = time.perf_counter()
        with VideoFile(clip) as video, RunOutputs(written, clip, video.frame_rate) as outputs:
            frames = with_progress(runtime, video, Instruction(phrases=(prompt,)), [outputs])
            profile = profile_run(frames, runtime, started)
    console.print(profile_table(profile))
    write_profile(profile, folder / "profile.json")
    draw_profile(profile, folder / "profile.png")
    draw_strip(folder / "masked.mp4", folder / "masked.png")
    console.print(f'masks for "{prompt}": {folder}/masked.mp4, {folder}/masked.png, {folder}/masks.jsonl')
    console.print(f"times: {folder}/profile.png, {folder}/profile.json")


if __name__ == "__main__":
    with reporting():
        run_demo(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
