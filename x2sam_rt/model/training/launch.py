"""A training run from its first command: processes, model, loop, and the checkpoint folder it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from types import FrameType, TracebackType

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, ProcessRaisedException, start_processes

from x2sam_rt.errors import TrainingError, X2SamError
from x2sam_rt.media.atomic import atomic_file, naming_write_errors
from x2sam_rt.model.checkpoint.tensor_file import write_state
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.training.recipe import Recipe
from x2sam_rt.model.training.state import STATE_FILE
from x2sam_rt.model.training.trainer import LOG_FILE, LossValues, Rank, Report, Trainer
from x2sam_rt.model.x2sam import X2SAM

MakeModel = Callable[[Path, int], X2SAM]
MakeRecipe = Callable[[float], Recipe]
MakeReport = Callable[[int], Report]
WriteResult = Callable[[X2SAM, Path], None]
Message = tuple[int, LossValues] | BaseException
CHECKPOINT_FILE, CONFIG_FILE, TOKENIZER_FOLDER = "checkpoint.safetensors", "config.json", "tokenizer"
_LISTEN_SECONDS = 0.2


def write_checkpoint(model: X2SAM, folder: Path) -> None:
    """bf16 weights and the configuration, beside the tokenizer; what ties to another tensor is not written twice."""
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    if model.config.language.get("tie_word_embeddings", False):
        del tensors["vlm.lm_head.weight"]
    with atomic_file(folder / CHECKPOINT_FILE) as temporary:
        write_state(tensors, temporary)
    write_config(model, folder)


def write_config(model: X2SAM, folder: Path) -> None:
    with atomic_file(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(model.config.to_json(), indent=2) + "\n")


@dataclass(frozen=True)
class Run:
    """folder: what the run writes to: its state and losses, at the end the trained checkpoint. make_model: from a
    folder for the tokenizer and a seed. make_recipe: from the scale, which makes every stage that much longer.
    write_result: writes the trained model to the folder. Functions rather than their results, as every process makes
    its own; where there are several processes they must be importable by name."""

    folder: Path
    make_model: MakeModel
    make_recipe: MakeRecipe
    scale: float = 1.0
    resume: bool = False
    write_result: WriteResult = write_checkpoint

    def start(self, make_report: MakeReport) -> None:
        """make_report: from the number of steps to what is told of each, in this process.

        Ctrl-C ends the step in progress, saves the state and raises KeyboardInterrupt; a second one does not wait.
        Raises TrainingError when the folder already holds a run and resume was not asked for, and whatever stops the
        training (`Trainer.run`). What ends it before its first step leaves no folder that was not there.
        """
        with self._folder_made():
            self._start(make_report)

    @contextmanager
    def _folder_made(self) -> Iterator[None]:
        was_there, log = self.folder.exists(), self.folder / LOG_FILE
        with naming_write_errors(self.folder, TrainingError):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except BaseException:
            if not was_there and not (log.is_file() and log.stat().st_size):
                shutil.rmtree(self.folder)
            raise

    def _start(self, make_report: MakeReport) -> None:
        if (self.folder / STATE_FILE).is_file() and not self.resume:
            raise TrainingError(f"{self.folder} holds a training run. Go on with --resume, or choose another folder.")
        recipe = self.make_recipe(self.scale)
        report = make_report(recipe.steps)
        if recipe.processes > 1:
            _share(self, recipe.processes, report)
            return
        with Interruption() as interruption:
            _train(self, recipe, Rank(), report, interruption.is_asked)


def _share(run: Run, processes: int, report: Report) -> None:
    """Starts the processes and tells what the leading one says, until all have ended."""
    said: SimpleQueue[Message] = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as meeting:
        arguments = (run, processes, f"file://{meeting}/store", said)
        children: ProcessContext = start_processes(  # type: ignore[no-untyped-call]
            _join, arguments, nprocs=processes, join=False, start_method="spawn"
        )
        try:
            with Interruption(lambda: _interrupt(children)) as interruption:
                _listen(children, said, report)
                if interruption.asked:
                    raise KeyboardInterrupt
        finally:
            for child in children.processes:
                child.kill()  # SIGTERM may be ignored, as whoever started this may have it
                child.join()


def _interrupt(children: ProcessContext) -> None:
    for child in children.processes:
        if child.pid is not None and child.is_alive():
            os.kill(child.pid, signal.SIGINT)


def _listen(children: ProcessContext, said: SimpleQueue[Message], report: Report) -> None:
    """Raises what a process raised first."""
    errors: list[BaseException] = []
    try:
        while not children.join(timeout=_LISTEN_SECONDS):
            errors += _heard(said, report)
    except ProcessRaisedException:
        errors += _heard(said, report)
        if not errors:
            raise
    except ProcessExitedException as error:
        raise TrainingError(
            f"A training process ended from outside ({error}); if nobody did it, memory ran out. Go on with --resume."
        ) from error
    errors += _heard(said, report)
    if errors:
        raise errors[0]


def _heard(said: SimpleQueue[Message], report: Report) -> list[BaseException]:
    """Reports all steps told so far. Returns the errors among them."""
    errors: list[BaseException] = []
    while not said.empty():
        message = said.get()
        if isinstance(message, BaseException):
            errors.append(message)
        else:
            report(*message)
    return errors


def _join(number: int, run: Run, processes: int, store: str, said: SimpleQueue[Message]) -> None:
    """One of several processes. Errors that users meet are handed on whole; others end it with their traceback. A
    parent that was killed cannot ask for an end: that it is gone does."""
    torch.set_num_threads(1)
    parent = os.getppid()
    with Interruption(patient=True) as interruption:
        dist.init_process_group("gloo", init_method=store, rank=number, world_size=processes)
        try:
            recipe = run.make_recipe(run.scale)
            _train(
                run,
                recipe,
                Rank(number, processes),
                partial(_say, said),
                lambda: interruption.asked or os.getppid() != parent,
            )
        except (X2SamError, KeyboardInterrupt) as error:
            said.put(error)
            raise
        finally:
            dist.destroy_process_group()


def _say(said: SimpleQueue[Message], step: int, losses: LossValues) -> None:
    said.put((step, losses))


def _train(run: Run, recipe: Recipe, rank: Rank, report: Report, stop: Callable[[], bool]) -> None:
    with _tokenizer_folder(run, rank) as folder:
        model = run.make_model(folder, recipe.seed)
        rows = int(model.config.language["text_config"]["vocab_size"])
        tokenizer = Tokenizer.load(folder, rows)
    trainer = Trainer(model, tokenizer, recipe, run.folder, resume=run.resume, rank=rank)
    trainer.run(report, stop)
    if rank.leads:
        run.write_result(model, run.folder)


@contextmanager
def _tokenizer_folder(run: Run, rank: Rank) -> Iterator[Path]:
    """The leading process's tokenizer stays beside the checkpoint."""
    if rank.leads:
        yield run.folder / TOKENIZER_FOLDER
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


class Interruption:
    """Hears Ctrl-C between steps instead of in the middle of one: within it, Ctrl-C sets `asked` and calls `pass_on`; a
    second one raises KeyboardInterrupt, unless patient. SIGTERM is heard likewise, but ends the patient at once.

    Use it on the main thread, which is the only one that gets signals.
    """

    def __init__(self, pass_on: Callable[[], None] = lambda: None, *, patient: bool = False) -> None:
        self.asked = False
        self._pass_on, self._patient = pass_on, patient

    def __enter__(self) -> Interruption:
        numbers = (signal.SIGINT,) if self._patient else (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._hear) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_asked(self) -> bool:
        return self.asked

    def _hear(self, _signal: int, _frame: FrameType | None) -> None:
        if self.asked and not self._patient:
            raise KeyboardInterrupt
        self.asked = True
        self._pass_on()
