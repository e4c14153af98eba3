"""The demonstration: export the embedded checkpoint, stream a video through it, show masks and times.

python -m x2sam_rt.cli.demo FOLDER
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from x2sam_rt.cli.terminal import console, reporting, with_progress

if TYPE_CHECKING:
    from x2sam_rt.data.synthetic import ClipSettings
    from x2sam_rt.media.types import Pixels
    from x2sam_rt.runtime.results import FrameResult
    from x2sam_rt.runtime.writers import Overlay
    from x2sam_rt.runtime.writers.pictures import Painter

_SIDE, _FRAMES, _RATE = 384, 96, 24
# The first world of just two objects, of one shape, that are seen in colour for a second at least before colours go:
# then nothing but the memory tells them apart. How often that goes well, over many worlds: `x2sam-rt eval`.
_SEED = 3
_BACKEND = "onnxruntime"
_SHOWN = 4  # frames of the picture
_WHY = "Colours are gone: now only the memory knows which of the two was meant."
_GREY = 12  # levels between a pixel's channels that compression makes of none


def demo_media(
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder for clip.mp4 and photo.png.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Another number, another world.")] = _SEED,
) -> None:
    """Write a video and a picture of the embedded model's world, and what to ask of them.

    Example: x2sam-rt demo-media -o demo
    """
    from x2sam_rt.media.image import write_image
    from x2sam_rt.media.video import pick_frames

    with reporting():
        folder.mkdir(parents=True, exist_ok=True)
        prompt = write_clip(folder / "clip.mp4", seed)
        write_image(folder / "photo.png", pick_frames(folder / "clip.mp4", 1).spread[0].pixels)
    console.print(f'{folder}/clip.mp4, {folder}/photo.png; ask for "{prompt}", or for all: --task gcg')


def _world() -> ClipSettings:
    """Colours go for a second."""
    from x2sam_rt.data.synthetic import ClipSettings

    return ClipSettings(
        side=_SIDE, frames=_FRAMES, desaturated=1, desaturated_frames=24, same_colour=1, occluder=0, twins=0
    )


def write_clip(path: Path, seed: int = _SEED) -> str:
    """Writes a made-up video of moving shapes. Returns what names one of them."""
    from x2sam_rt.data.synthetic import make_clip
    from x2sam_rt.media.video import VideoWriter

    clip = make_clip(seed, _world())
    with VideoWriter(path, _SIDE, _SIDE, _RATE) as video:
        for frame in clip.frames:
            video.write(frame)
    named = clip.objects[clip.focus]
    return f"the {named.colour} {named.shape}"


def explained(overlay: Overlay) -> Painter:
    """What an overlay draws, with a word on why colours are gone while they are."""
    import numpy as np

    def paint(pixels: Pixels, result: FrameResult) -> Pixels:
        grey = np.ptp(pixels, axis=2).max() <= _GREY
        return overlay.draw(pixels, replace(result, text=_WHY) if grey else result)

    return paint


def draw_strip(video: Path, picture: Path) -> None:
    """A few frames of a video side by side."""
    import numpy as np

    from x2sam_rt.media.image import write_image
    from x2sam_rt.media.video import pick_frames

    frames = pick_frames(video, _SHOWN).spread
    write_image(picture, np.hstack([frame.pixels for frame in frames]))


def export_demo(bundle: Path) -> None:
    """Exports the embedded checkpoint, unless this version has done so already."""
    from x2sam_rt.errors import BundleError
    from x2sam_rt.export.bundle_writer import ExportPlan, build_environment, export_bundle, source_sha256
    from x2sam_rt.model.checkpoint.files import checkpoint_file, embedded_checkpoint
    from x2sam_rt.model.checkpoint.loading import load_checkpoint
    from x2sam_rt.runtime.bundle import load_manifest

    try:
        there = load_manifest(bundle)
        wanted = (source_sha256(checkpoint_file(embedded_checkpoint())), build_environment(_BACKEND))
        if (there.checkpoint_sha256, there.environment) == wanted:
            console.print(f"{bundle} is there already")
            return
    except BundleError:
        pass  # none, or an older version's: made anew
    console.print(f"exporting the embedded checkpoint to {bundle} …")
    plan = ExportPlan(load_checkpoint(embedded_checkpoint()), _BACKEND)
    export_bundle(plan, bundle, overwrite=bundle.exists())


def run_demo(folder: Path) -> None:
    from x2sam_rt.media.sources import VideoFile
    from x2sam_rt.runtime.profile import profile_run
    from x2sam_rt.runtime.profile_report import draw_profile, profile_table, write_profile
    from x2sam_rt.runtime.runtime import Runtime
    from x2sam_rt.runtime.writers import CocoRleWriter, Overlay, PictureVideoWriter
    from x2sam_rt.tasks.instruction import Instruction

    folder.mkdir(parents=True, exist_ok=True)
    clip, bundle = folder / "clip.mp4", folder / "bundle"
    prompt = write_clip(clip)
    export_demo(bundle)
    with Runtime.load(bundle) as runtime:
        started = time.perf_counter()
        with (
            VideoFile(clip) as video,
            PictureVideoWriter(folder / "masked.mp4", _RATE, explained(Overlay(frame_rate=_RATE))) as film,
            CocoRleWriter(folder / "masks.jsonl") as masks,
        ):
            frames = with_progress(runtime, video, Instruction(phrases=(prompt,)), [film, masks])
            profile = profile_run(frames, runtime, started)
    console.print(profile_table(profile))
    write_profile(profile, folder / "profile.json")
    draw_profile(profile, folder / "profile.png")
    draw_strip(folder / "masked.mp4", folder / "masked.png")
    console.print(f'masks for "{prompt}": {folder}/masked.mp4, {folder}/masked.png, {folder}/masks.jsonl')
    console.print(f"times: {folder}/profile.png, {folder}/profile.json")
    console.print("In the last second colours are gone: only the memory knows then which of the two was meant.")
    console.print(
        f'next: .venv/bin/x2sam-rt run {bundle} {clip} --prompt "the red cross" -o {folder}/other.mp4',
        soft_wrap=True,
    )


if __name__ == "__main__":
    with reporting():
        run_demo(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
