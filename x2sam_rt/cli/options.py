"""Options that several commands share, and the instruction they describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from x2sam_rt.tasks.table import TASKS

if TYPE_CHECKING:
    from x2sam_rt.tasks.instruction import Instruction

EPILOG = (
    "Exit codes: 0 done · 1 an error, which says what to do · 2 wrong usage · 3 engines out of bounds · "
    "128 + N ended by signal N (130: Ctrl-C)."
)

Bundle = Annotated[Path, typer.Argument(help="Folder made by `x2sam-rt export`.")]
Device = Annotated[
    str | None, typer.Option(help='"cpu", "cuda" or "cuda:N"; default: where the bundle\'s engines were built for.')
]
Video = Annotated[Path | None, typer.Option(help="Video file to stream.")]
Phrases = Annotated[list[str] | None, typer.Option("--prompt", "-p", help="What to look for; repeat for several.")]
TaskName = Annotated[str, typer.Option("--task", "-t", help=f"One of: {', '.join(TASKS)}.")]
Names = Annotated[str, typer.Option(help="Category names, separated by commas.")]
Regions = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        "-r",
        help='"point:x,y", "box:x0,y0,x1,y1", "scribble:x,y;x,y;…" or "mask:file.png", with "@frame" behind.',
    ),
]
CheckHashes = Annotated[
    bool, typer.Option("--check-hashes", help="Read every file whole and check its SHA-256, not a sample of it.")
]
Threshold = Annotated[float | None, typer.Option(help="Least score of a result, 0…1; default: the task's own.")]
Context = Annotated[
    int | None,
    typer.Option(help="Tokens of the longest prompt with its answer; default: what the published protocols need."),
]
ModelKnob = Annotated[
    list[str] | None,
    typer.Option(
        "--knob",
        help="What to run otherwise than exported: slots=2, vision_budget=…, memory_every=2, memory_reads=writes, "
        "memory_gaps=writes; with bundles for torch also image_size=512, memory_scales=low. Repeat for several.",
    ),
]
AskAgain = Annotated[
    str,
    typer.Option(
        help="When a video's instruction is asked again: once, every=8, on_change=0.5; :forget empties the memory then."
    ),
]
OnRay = Annotated[
    str | None, typer.Option("--ray", help='On this Ray cluster: its address, or "auto" on one of its machines.')
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are there already.")]
Truncated = Annotated[bool, typer.Option("--allow-truncated", help="Keep the frames before a break in the file.")]


Threads = Annotated[
    int | None, typer.Option(min=1, help="Of the processor, for engines and language model; default: all its cores.")
]


EMBEDDED = "toy"


def checkpoint_named(name: str) -> str | Path:
    """What a command calls a checkpoint: the embedded one by its name, others as they are."""
    from x2sam_rt.model.checkpoint.files import embedded_checkpoint

    return embedded_checkpoint() if name == EMBEDDED else name


def use_threads(threads: int | None) -> None:
    """None = as it is: what PyTorch found, or OMP_NUM_THREADS says. Engines ask PyTorch for the number."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def asked(
    task_name: str,
    prompt: list[str] | None,
    things: str,
    stuff: str,
    region: list[str] | None,
    threshold: float | None,
    avoid: list[str] | None = None,
) -> Instruction:
    """The options of a command as an instruction. A task that takes a question gets the prompt as one."""
    from x2sam_rt.errors import PromptError
    from x2sam_rt.tasks.instruction import Instruction, PostProcessOptions
    from x2sam_rt.tasks.regions import parse_region
    from x2sam_rt.tasks.table import task

    takes = task(task_name).takes
    texts = tuple(prompt or ())
    question = None
    if "question" in takes:
        if len(texts) > 1:
            raise PromptError(f"{task_name} takes one question, but --prompt was given {len(texts)} times.")
        question, texts = (texts[0] if texts else None), ()
    return Instruction(
        task=task_name,
        phrases=texts,
        things=_split(things),
        stuff=_split(stuff),
        regions=(
            *(parse_region(text) for text in region or ()),
            *(parse_region(text).negative() for text in avoid or ()),
        ),
        question=question,
        options=PostProcessOptions(threshold=threshold),
    )


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",")) if names.strip() else ()
