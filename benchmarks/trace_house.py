"""How much of the house a reader walks through: files passed, and changes from file to file, while `run` works.

    python benchmarks/trace_house.py [--engine torch] [--list]

Exports the embedded model, runs `x2sam-rt run` on a small clip in this process, and watches every call of a function
of the package. Counted are the way from the command to the first frame's masks, and one steady frame: everything
between the fourth frame's masks and the fifth's. What happens while modules are imported is left out.

For an earlier state of the code: --app names the command's object there, and PYTHONPATH its folder, in an environment
without an editable install, which would come first.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import FrameType

import av
import numpy as np
import typer
from typer.testing import CliRunner

import x2sam_rt

PACKAGE = Path(str(x2sam_rt.__file__)).parent
STEP = "VideoSession.step"  # its return is the moment when a frame's masks are there
FRAMES, STEADY = 6, 4


@dataclass
class Walk:
    """The package's files, one entry per call; steps: how many calls were made when each frame's masks were there."""

    files: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    _importing: int = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event not in ("call", "return"):
            return
        if code.co_name == "<module>":
            self._importing += 1 if event == "call" else -1
        elif not self._importing and code.co_filename.startswith(str(PACKAGE)):
            if event == "call":
                self.files.append(str(Path(code.co_filename).relative_to(PACKAGE)))
            elif code.co_qualname == STEP:
                self.steps.append(len(self.files))

    @property
    def first_mask(self) -> Sequence[str]:
        return self.files[: self.steps[0]]

    @property
    def steady_frame(self) -> Sequence[str]:
        return self.files[self.steps[STEADY - 1] : self.steps[STEADY]]


def changes(files: Sequence[str]) -> int:
    """Calls into another file than the call before."""
    return sum(one != other for one, other in itertools.pairwise(files))


def walk(app: typer.Typer, bundle: Path, clip: Path, overlay: Path) -> Walk:
    watched = Walk()
    arguments = ["run", str(bundle), "--video", str(clip), "--prompt", "the red circle", "-o", str(overlay)]
    sys.setprofile(watched)
    try:
        result = CliRunner().invoke(app, arguments)
    finally:
        sys.setprofile(None)
    if result.exit_code:
        raise SystemExit(result.output)
    return watched


def write_clip(path: Path) -> None:
    """A square that moves. Written without the package, whose earlier states have other names for that."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        for index in range(FRAMES):
            pixels = np.full((128, 128, 3), 90, np.uint8)
            pixels[40:80, 10 + 8 * index : 50 + 8 * index] = (200, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))


def size() -> tuple[int, int]:
    """Python files of the package, and their lines."""
    sources = list(PACKAGE.rglob("*.py"))
    return len(sources), sum(len(source.read_text().splitlines()) for source in sources)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--app", default="x2sam_rt.cli.app:app", help="MODULE:NAME of the Typer program")
    parser.add_argument("--list", action="store_true", help="name the files")
    options = parser.parse_args()
    module, name = options.app.split(":")
    app = getattr(import_module(module), name)
    with tempfile.TemporaryDirectory() as work:
        bundle, clip, overlay = Path(work, "bundle"), Path(work, "clip.mp4"), Path(work, "masked.mp4")
        write_clip(clip)
        exported = CliRunner().invoke(app, ["export", "toy", "-o", str(bundle), "--engine", options.engine])
        if exported.exit_code:
            raise SystemExit(exported.output)
        watched = walk(app, bundle, clip, overlay)
    print("package: {} files, {} lines".format(*size()))
    for what, files in (("to the first mask", watched.first_mask), ("a steady frame", watched.steady_frame)):
        print(f"{what}: {len(set(files))} files, {changes(files)} changes of file, {len(files)} calls")
        if options.list:
            print("".join(f"  {file}\n" for file in dict.fromkeys(files)), end="")


if __name__ == "__main__":
    main()
