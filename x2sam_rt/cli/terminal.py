"""What all commands share: errors as messages and exit codes, progress bars, running files with progress."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from x2sam_rt.errors import VerificationError, X2SamError
from x2sam_rt.media.colors import color_of
from x2sam_rt.tasks.marks import link, parse_marks

if TYPE_CHECKING:
    from x2sam_rt.media.source import FrameSource
    from x2sam_rt.runtime.asking import ReAsk
    from x2sam_rt.runtime.results import FrameResult
    from x2sam_rt.runtime.run import RunFrame
    from x2sam_rt.runtime.runtime import Runtime
    from x2sam_rt.runtime.writers import ResultWriter
    from x2sam_rt.tasks.instruction import Instruction

FAILED, OUT_OF_BOUNDS = 1, 3
_SIGNALLED = 128  # plus the signal's number, as shells have it
_OPTIONS = {"phrases": "--prompt", "question": "--prompt", "regions": "--region", "most": "--max-frames"}
_ARGUMENT = re.compile(
    r"\b(?P<name>phrases|question|regions|things|stuff|explain|answer|max_new_tokens|stop|threshold|presence|context|"
    r"allow_truncated|allow_playlists|stride|most|alpha|outline)=(True\b)?(?P<value>(?=[\w'\"(\[-]))?"
)
_BEGUN_MARK = re.compile(r"</?\w*$")
# What a file or a model says is printed as it is: brackets in it are no markup.
console, error_console = Console(markup=False), Console(stderr=True, markup=False)
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Terminated(KeyboardInterrupt):
    """A signal that ends the process, as an exception, so that what is half done is cleaned up as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.number = number


def printable(text: str) -> str:
    """A text from a model or a file, without what would steer the terminal."""
    return text.translate(_CONTROLS)


def with_options(message: str) -> str:
    """A message for who types commands: it names the arguments of Python as `name=`; these are options here."""

    def option(found: re.Match[str]) -> str:
        name = _OPTIONS.get(found["name"], "--" + found["name"].replace("_", "-"))
        return name if found["value"] is None else f"{name} "

    return _ARGUMENT.sub(option, message)


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Ends the command with a message instead of a traceback for every error a user can meet, and for signals."""
    try:
        with _raising_signals():
            yield
    except X2SamError as error:
        error_console.print(Text("error:", "red"), printable(with_options(str(error))), soft_wrap=True)
        code = OUT_OF_BOUNDS if isinstance(error, VerificationError) else FAILED
        raise typer.Exit(code) from error
    except KeyboardInterrupt as stop:
        error_console.print("stopped.", style="yellow")
        number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
        raise typer.Exit(_SIGNALLED + number) from None


@contextlib.contextmanager
def _raising_signals() -> Iterator[None]:
    def end(number: int, _frame: FrameType | None) -> None:
        raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A signal that is ignored (nohup) stays so.
    heard = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    for number in heard:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)


def progress_bar(*more: ProgressColumn) -> Progress:
    """more: columns behind the usual ones."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        *more,
    )
    return Progress(*columns, console=error_console, transient=True)


class GrowingAnswer:
    """Prints generated text as it grows, as a person reads it: without what marks it, whatever the model writes."""

    def __init__(self) -> None:
        self._spelled, self._printed = "", 0

    def __call__(self, piece: str) -> None:
        """piece: with its marks spelled, as `on_text` gets it. What may yet be a mark's beginning is held back, as are
        blanks, which a `<SEG>` takes along."""
        self._spelled += piece
        self._print(link(parse_marks(_BEGUN_MARK.sub("", self._spelled))).text.rstrip())

    def finish(self) -> None:
        self._print(link(parse_marks(self._spelled)).text + "\n")

    def _print(self, text: str) -> None:
        sys.stdout.write(printable(text[self._printed :]))
        sys.stdout.flush()
        self._printed = max(self._printed, len(text))


def linked_text(result: FrameResult) -> Text:
    """The answer, each phrase in the colour its mask has in the overlay."""
    text = Text(printable(result.text))
    ids = {segment.label_id: segment.id for segment in result.segments}
    for span in result.spans:
        if span.label_id in ids:
            red, green, blue = color_of(ids[span.label_id])
            text.stylize(f"bold rgb({red},{green},{blue})", span.start, span.end)
    return text


def with_progress(
    runtime: Runtime,
    source: FrameSource,
    instruction: Instruction,
    writers: Sequence[ResultWriter] = (),
    again: ReAsk | None = None,
) -> Iterator[RunFrame]:
    """Runs a source with a progress bar over its frames. again: None = the instruction is asked once."""
    from x2sam_rt.runtime.asking import ONCE
    from x2sam_rt.runtime.run import run_video

    with progress_bar() as progress:
        bar = progress.add_task("answer the instruction", total=None)
        frames = run_video(
            runtime,
            source,
            instruction,
            writers,
            again=again or ONCE,
            on_ready=lambda count: progress.update(bar, description="segment", total=count),
        )
        for frame in frames:
            progress.update(bar, advance=1)
            yield frame
