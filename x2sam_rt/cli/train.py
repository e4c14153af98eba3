"""The command line of training: the toy model from nothing, or a trained model on one's own data."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from x2sam_rt.cli.options import EMBEDDED, checkpoint_named
from x2sam_rt.cli.terminal import console, error_console, progress_bar, reporting

if TYPE_CHECKING:
    from x2sam_rt.model.training.recipe import Recipe

_EPILOG = (
    "Exit codes: 0 done · 1 an error, which says what to do · 2 wrong usage · 130 stopped by Ctrl-C, with the state "
    "saved: --resume goes on."
)
_INTERRUPTED = 130
_KEEP = 0.95  # of the shown losses, from step to step
_LINE_EVERY = 50  # steps, where there is no terminal to draw a bar on
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Train a model.", epilog=_EPILOG)

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; at the end also of its checkpoint.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the folder's last saved state.")]


@app.command(epilog=_EPILOG)
def toy(
    output: Output,
    resume: Resume = False,
    scale: Annotated[float, typer.Option(help="Makes every stage that much longer; 0.05 is a quick look.")] = 1.0,
    processes: Annotated[int, typer.Option(min=1, help="That share every step. Another number, another run.")] = 2,
) -> None:
    """Make x2sam-toy: a small model, trained from nothing on made-up videos.

    Example: x2sam-rt train toy -o toy
    """
    with reporting():
        from x2sam_rt.model.training.launch import Run
        from x2sam_rt.model.training.toy.model import toy_model
        from x2sam_rt.model.training.toy.recipe import toy_recipe

        make_recipe = functools.partial(toy_recipe, processes=processes)
        with _watched(make_recipe(scale), output) as bar:
            Run(output, toy_model, make_recipe, scale, resume).start(lambda _steps: bar)
    console.print(f"{output}: trained. Next: x2sam-rt export {output} -o bundle")


@app.command(epilog=_EPILOG)
def finetune(
    checkpoint: Annotated[
        str, typer.Argument(help=f'Checkpoint file, folder or hub name, or "{EMBEDDED}" for the embedded one.')
    ],
    dataset: Annotated[
        list[str],
        typer.Option(help="A reader's name; repeat for several. \"paper\": all of the paper's that are there."),
    ],
    root: Annotated[Path, typer.Option(help="Folder of the data set; of several, X2SAM's folder of all sets.")],
    output: Output,
    split: Annotated[
        str | None, typer.Option(help="Split to learn from; default: each set's own for training.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder in SA-1B's form for the mask decoder's stage; default: the same data.")
    ] = None,
    vlm: Annotated[str | None, typer.Option(help="Base Qwen3-VL of a training checkpoint: folder or hub name.")] = None,
    config: Annotated[Path | None, typer.Option(help="Model configuration; default: beside the checkpoint.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer folder; default: beside the checkpoint.")] = None,
    decoder_steps: Annotated[int, typer.Option(min=0, help="Steps of the mask decoder alone; 0 = none.")] = 500,
    steps: Annotated[int, typer.Option(min=0, help="Steps of everything together.")] = 2000,
    learning_rate: Annotated[float, typer.Option(min=0, help="At its highest.")] = 4e-5,
    full: Annotated[bool, typer.Option("--full", help="Train all weights instead of adapters.")] = False,
    rank: Annotated[int | None, typer.Option(min=1, help="Of new adapters; default 128.")] = None,
    alpha: Annotated[float | None, typer.Option(min=0, help="Of new adapters; default twice the rank.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames of a clip.")] = 8,
    accumulate: Annotated[int, typer.Option(min=1, help="Examples per step.")] = 4,
    accumulate_videos: Annotated[
        int | None, typer.Option(min=1, help="Clips per step; default: as many, or 1 beside images.")
    ] = None,
    amp: Annotated[bool, typer.Option(help="Compute in bf16 where that is safe.")] = False,
    device: Annotated[str, typer.Option(help='"cpu", "cuda", "cuda:1", …')] = "cpu",
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saved states.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of the examples' order.")] = 0,
    resume: Resume = False,
) -> None:
    """Train a trained model on, first its mask decoder, then all of it.

    Example: x2sam-rt train finetune pytorch_model.bin --vlm Qwen/Qwen3-VL-4B-Instruct --dataset ref-davis17
    --root DAVIS --device cuda --amp -o tuned
    """
    with reporting():
        from x2sam_rt.model.training.finetune import FinetunePlan, Finetuning

        plan = FinetunePlan(
            checkpoint=Path(checkpoint_named(checkpoint)),
            datasets=tuple(dataset),
            root=root,
            split=split,
            masks=masks,
            vlm=vlm,
            config=config,
            tokenizer=tokenizer,
            decoder_steps=decoder_steps,
            steps=steps,
            learning_rate=learning_rate,
            full=full,
            rank=rank,
            alpha=alpha,
            frames=frames,
            accumulate=accumulate,
            accumulate_videos=accumulate_videos,
            amp=amp,
            device=device,
            save_every=save_every,
            seed=seed,
        )
        tuning = Finetuning(plan)
        recipe = tuning.make_recipe()
        for name, reason in tuning.left_out:
            error_console.print(Text("left out:", "yellow"), f"{name}: {reason}", soft_wrap=True)
        with _watched(recipe, output) as bar:
            tuning.run(output, recipe, resume=resume).start(lambda _steps: bar)
    base = f" --vlm {vlm}" if vlm else ""
    console.print(f"{output}: trained. Next: x2sam-rt export {output}{base} -o bundle")


class TrainingBar:
    """Told of each step, shows how far the run is, its stage, its smoothed losses and when it will end."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self._recipe, self._progress = recipe, progress
        self._task: TaskID | None = None
        self._losses: dict[str, float] = {}

    def __call__(self, step: int, losses: Mapping[str, float]) -> None:
        if self._task is None:  # a resumed run must not seem to have done its earlier steps in no time
            self._task = self._progress.add_task("", total=self._recipe.steps, completed=step, losses="")
        for name, loss in losses.items():
            self._losses[name] = _KEEP * self._losses.get(name, loss) + (1 - _KEEP) * loss
        stage, _ = self._recipe.stage_at(step - 1)
        shown = " ".join(f"{name} {loss:.3f}" for name, loss in self._losses.items())
        self._progress.update(self._task, completed=step, description=stage.name, losses=shown)
        if not error_console.is_terminal and (step % _LINE_EVERY == 0 or step == self._recipe.steps):
            error_console.print(f"{step}/{self._recipe.steps} {stage.name}: {shown}", soft_wrap=True)


@contextmanager
def _watched(recipe: Recipe, folder: Path) -> Iterator[TrainingBar]:
    """A bar while the body trains; Ctrl-C ends the command with its own exit code."""
    from x2sam_rt.model.training.state import STATE_FILE

    try:
        with progress_bar(TimeRemainingColumn(), TextColumn("{task.fields[losses]}")) as progress:
            yield TrainingBar(recipe, progress)
    except KeyboardInterrupt as stopped:
        saved = (folder / STATE_FILE).is_file()
        error_console.print(Text("stopped.", "yellow"), "Go on with --resume." if saved else "Nothing was saved.")
        raise typer.Exit(_INTERRUPTED) from stopped
