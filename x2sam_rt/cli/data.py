"""The command line of data sets: what a folder holds, and making the V-VGD benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from x2sam_rt.cli.options import EPILOG
from x2sam_rt.cli.terminal import FAILED, console, progress_bar, reporting

if TYPE_CHECKING:
    from x2sam_rt.data.check import SplitCheck

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Look at data sets, and make V-VGD.", epilog=EPILOG
)
_SHOWN = 3  # missing files named of each split


@app.command(epilog=EPILOG)
def check(
    name: Annotated[str, typer.Argument(help="A data set of docs/evaluation.md, such as ref-davis17.")],
    root: Annotated[Path, typer.Option(help="Its folder, or X2SAM's folder of all sets.")],
    split: Annotated[list[str] | None, typer.Option(help="Only this; repeat for several. Default: all it has.")] = None,
) -> None:
    """Say what a data set's folder holds, what is missing, and how many samples each split has.

    Fails if no split can be used, or one that is there lacks files.

    Example: x2sam-rt data check ref-davis17 --root DAVIS
    """
    from x2sam_rt.data.check import check_dataset

    with reporting():
        splits = check_dataset(name, root, split or ())
    console.print(_table(name, splits))
    for one in splits:
        _explain(one)
    there = [one for one in splits if one.readable]
    if not there or not all(one.usable for one in there) or (split and len(there) < len(splits)):
        raise typer.Exit(FAILED)


def _table(name: str, splits: Sequence[SplitCheck]) -> Table:
    table = Table(title=f"{name}, {splits[0].root}")
    for column in ("split", "samples", "image and mask files", "missing", "found"):
        table.add_column(column, justify="left" if column in ("split", "found") else "right")
    for one in splits:
        found = ", ".join(_below(one.root, piece) for piece in one.pieces)
        counts = (str(one.samples), str(one.files), str(len(one.missing))) if one.readable else ("–", "–", "–")
        table.add_row(one.split, *counts, found)
    return table


def _below(root: Path, piece: Path) -> str:
    return str(piece.relative_to(root)) if piece.is_relative_to(root) else str(piece)


def _explain(one: SplitCheck) -> None:
    if one.problem is not None:
        console.print(Text(f"{one.split}:", "yellow"), one.problem, soft_wrap=True)
    if one.missing:
        named = ", ".join(map(str, one.missing[:_SHOWN]))
        more = f" and {len(one.missing) - _SHOWN} more" if len(one.missing) > _SHOWN else ""
        console.print(Text(f"{one.split}:", "yellow"), f"missing {named}{more}", soft_wrap=True)


@app.command("make-vgd", epilog=EPILOG)
def make_vgd(
    source: Annotated[str, typer.Argument(help="yt19, vipseg, or synthetic: the made-up world.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the benchmark.")],
    root: Annotated[Path | None, typer.Option(help="Folder of YouTube-VIS 2019 or VIPSeg 720p.")] = None,
    split: Annotated[str, typer.Option(help="val or train.")] = "val",
    prompts: Annotated[
        str,
        typer.Option(help="first: on the first frame that shows an object (paper); every: on all (released files)."),
    ] = "first",
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 0,
    pictures: Annotated[int, typer.Option(min=0, help="Objects to draw with their prompts, for the eye.")] = 8,
    clips: Annotated[int, typer.Option(min=1, help="Clips of the made-up world.")] = 24,
) -> None:
    """Make V-VGD, the video benchmark of visual prompts, from annotations, in the form of the published files.

    Example: x2sam-rt data make-vgd yt19 --root YTVIS19 -o datas/vid_vgdseg/ytvis_vgd
    """
    from x2sam_rt.errors import require_extra

    with reporting():
        require_extra("vgd")
    from x2sam_rt.data.make_vgd import VgdPlan, write_synthetic
    from x2sam_rt.data.make_vgd import make_vgd as make
    from x2sam_rt.errors import DataError

    with reporting():
        if source == "synthetic":
            if root is not None:
                raise DataError(f"The made-up world has no folder; leave out --root {root}.")
            root = output / "synthetic"
            write_synthetic(root, clips, split)
        elif root is None:
            raise DataError(f"{source} needs the folder of its videos: --root DIR.")
        plan = VgdPlan(source, root, output, split, prompts, seed, pictures)  # type: ignore[arg-type]
        with progress_bar() as progress:
            bar = progress.add_task("prompt videos", total=None)
            made = make(plan, lambda: progress.update(bar, advance=1))
    console.print(
        f"{plan.file}: {made.videos} videos, {made.frames} frames, {made.prompted} objects with prompts"
        + (f", {made.unprompted} too small for any" if made.unprompted else "")
        + (f"; pictures in {made.pictures[0].parent}" if made.pictures else ""),
        soft_wrap=True,
    )
    console.print(f"Next: x2sam-rt eval bundle --dataset v-vgd-{source} --root {output} --split {split}/point")
