"""The demonstration: export the embedded checkpoint, stream a video through it, show masks and times.

python -m x2sam_rt.demo FOLDER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.model.checkpoint import load_checkpoint
from x2sam_rt.model.embedded import embedded_checkpoint
from x2sam_rt.runtime.asking import Ask
from x2sam_rt.runtime.orientation import Pixels
from x2sam_rt.runtime.profile import profile_run
from x2sam_rt.runtime.profile_report import draw_profile, profile_table, write_profile
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.video import VideoWriter
from x2sam_rt.runtime.writers import CocoRleWriter, OverlayVideoWriter
from x2sam_rt.terminal import console, reporting, warn_untrained, with_progress

_SIZE, _FRAMES, _RATE = (240, 320), 96, 24
_PROMPT = "the red circle"


def draw_frame(moment: float) -> Pixels:
    """A red circle and a blue square that cross on a grey texture. moment: 0…1. Returns (240, 320, 3) uint8."""
    height, width = _SIZE
    rows, columns = np.mgrid[:height, :width]
    frame = (110 + 25 * np.sin(rows / 9)[..., None] * np.cos(columns / 13)[..., None]).repeat(3, axis=2)
    square_x = width * (0.85 - 0.7 * moment)
    frame[(abs(columns - square_x) < 28) & (abs(rows - height * 0.55) < 28)] = (40, 70, 200)
    circle_x, circle_y = width * (0.15 + 0.7 * moment), height * (0.45 + 0.2 * np.sin(6 * moment))
    frame[(columns - circle_x) ** 2 + (rows - circle_y) ** 2 < 32**2] = (215, 45, 40)
    pixels: Pixels = frame.astype(np.uint8)
    return pixels


def write_clip(path: Path) -> None:
    height, width = _SIZE
    with VideoWriter(path, width, height, _RATE) as video:
        for index in range(_FRAMES):
            video.write(draw_frame(index / (_FRAMES - 1)))


def run_demo(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    clip, bundle = folder / "clip.mp4", folder / "bundle"
    write_clip(clip)
    console.print(f"exporting the embedded checkpoint to {bundle} …")
    plan = ExportPlan(load_checkpoint(embedded_checkpoint()), "onnxruntime", trained=False)
    export_bundle(plan, bundle, overwrite=bundle.exists())
    with Runtime.load(bundle) as runtime:
        warn_untrained(runtime.manifest.trained)
        writers = [OverlayVideoWriter(folder / "masked.mp4", _RATE), CocoRleWriter(folder / "masks.jsonl")]
        started = time.perf_counter()
        frames = with_progress(runtime, clip, Ask(phrases=(_PROMPT,)), writers, allow_truncated=False)
        profile = profile_run(frames, runtime.manifest, started)
    console.print(profile_table(profile))
    write_profile(profile, folder / "profile.json")
    draw_profile(profile, folder / "profile.png")
    console.print(f'masks for "{_PROMPT}": {folder}/masked.mp4, {folder}/masks.jsonl; times: {folder}/profile.png')


if __name__ == "__main__":
    with reporting():
        run_demo(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
