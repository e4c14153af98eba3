"""Files and folders that appear under their name only when they are complete, whatever happens meanwhile."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import shutil
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from x2sam_rt.errors import VideoError, X2SamError

_log = logging.getLogger(__name__)
_AT_WORKING_FOLDER = -100
_NO_REPLACE, _EXCHANGE = 1, 2
# What the kernel says of a file system (or a C library) that cannot rename in these ways.
_UNABLE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Replaces = Callable[[Path], bool]


def nothing(path: Path) -> bool:
    """What an output replaces that must not replace anything."""
    return False


def any_file(path: Path) -> bool:
    """What an output replaces that may replace a file; folders and devices it leaves alone."""
    return path.is_file()


@contextmanager
def naming_write_errors(target: Path, error: type[X2SamError] = VideoError) -> Iterator[None]:
    """Turns the system's refusal (full disk, missing rights, a name too long) into an error that names `target`."""
    if "\0" in str(target):
        raise error(f"{str(target)!r}: no file can have this name. Choose another output path.")
    try:
        yield
    except OSError as refusal:
        reason = refusal.strerror or str(refusal)
        raise error(
            f"{target}: cannot be written ({reason}). Check the folder's free space and rights, "
            "or choose another output path."
        ) from refusal


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds back Ctrl-C and the signals that end a process until the body is done, so that it is never half done.

    Only the main thread gets them; on another one there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}
    try:
        for number in _ENDING:
            before[number] = signal.signal(number, lambda number, _frame: held.append(number))
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # else it was not Python that had set it, and Python cannot set it again
                signal.signal(number, handler)
        for missed in held:
            signal.raise_signal(missed)


def check_free(target: Path, replaces: Replaces, error: type[X2SamError] = VideoError) -> None:
    """Raises `error` if the parent is no folder, or something has the target's name that may not be replaced."""
    with naming_write_errors(target, error):
        if not target.parent.is_dir():
            raise error(f"{target}: there is no folder {target.parent}. Create it first.")
        if os.path.lexists(target) and not replaces(target):
            raise error(f"{target}: exists already. Choose another output path, or pass --overwrite to replace a file.")


class AtomicOutput:
    """A file or folder that is written to a hidden folder beside its target (a rename cannot cross file systems).

    The hidden folder is locked: another process that writes to the same target is refused. The lock goes with the
    process, so what a killed one left there is removed, with a logged warning, by the next that writes to the target.
    `temporary` has the target's own name, because encoders choose their format by it.

    replaces: whether what has the target's name may be replaced; asked at the start, and of what is replaced at the
    end. error: what is raised when the target exists and may not be replaced, is being written by another process, or
    cannot be written.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        folder: bool = False,
        replaces: Replaces = any_file,
        error: type[X2SamError] = VideoError,
    ) -> None:
        self.target, self._replaces, self._error = Path(target), replaces, error
        with uninterrupted(), naming_write_errors(self.target, error):
            check_free(self.target, replaces, error)
            self._hidden = self.target.with_name(f".{self.target.name}.partial")
            self._lock: int | None = self._locked()
            self.temporary = self._hidden / self.target.name
            if folder:
                with self.discarded_on_error():
                    self.temporary.mkdir()

    def publish(self) -> None:
        """Gives the finished file or folder its name; what it replaces is gone then. Where that fails, the output is
        discarded and whatever has the name is left alone."""
        with uninterrupted():
            try:
                with naming_write_errors(self.target, self._error):
                    self._take_name()
            finally:
                self.discard()

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Around writing: the system's refusal becomes `error`, and whatever is raised discards the output."""
        try:
            with naming_write_errors(self.target, self._error):
                yield
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Removes what was written so far; the target, if it existed, is untouched."""
        if self._lock is None:
            return
        with uninterrupted():
            shutil.rmtree(self._hidden, ignore_errors=True)
            os.close(self._lock)
            self._lock = None

    def _locked(self) -> int:
        """The open, locked, empty hidden folder."""
        while True:
            with suppress(FileExistsError):
                self._hidden.mkdir()
            try:
                lock = os.open(self._hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except FileNotFoundError:  # another output has just ended
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise self._error(
                    f"{self.target}: another process is writing it now. Wait for it, or choose another output path."
                ) from None
            if is_still(self._hidden, lock):
                _clear(self._hidden)
                return lock
            os.close(lock)

    def _take_name(self) -> None:
        try:
            if not os.path.lexists(self.target):
                rename(self.temporary, self.target, _NO_REPLACE)
            elif not self._replaces(self.target):
                raise FileExistsError
            elif self.temporary.is_dir():
                self._exchange()
            else:
                os.replace(self.temporary, self.target)
        except FileExistsError:
            raise self._error(
                f"{self.target}: appeared while it was being written, and was left alone. Choose another output path."
            ) from None

    def _exchange(self) -> None:
        """Both have a name at every moment. What may not be replaced, when it was replaced, gets its name back."""
        rename(self.temporary, self.target, _EXCHANGE)
        if not self._replaces(self.temporary):
            rename(self.temporary, self.target, _EXCHANGE)
            raise FileExistsError


def is_still(folder: Path, lock: int) -> bool:
    """Whether a locked folder has its name still: the one who held it before may have removed it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(folder), os.fstat(lock))
    return False


def _clear(folder: Path) -> None:
    left = list(folder.iterdir())
    if not left:
        return
    _log.warning("%s: removed what a killed process had left there.", folder)
    for path in left:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def rename(old: Path, new: Path, flag: int) -> None:
    """Linux's renameat2. Raises OSError; of a file system that cannot exchange names, one that says what to do."""
    system = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(old), os.fsencode(new)
    if not system.renameat2(_AT_WORKING_FOLDER, names[0], _AT_WORKING_FOLDER, names[1], flag):
        return
    code = ctypes.get_errno()
    if flag == _EXCHANGE and code in _UNABLE:
        raise OSError(
            code,
            "its file system cannot exchange two names, without which a kill could leave half of it; write to another "
            "folder, then move it yourself",
        )
    if code not in _UNABLE:
        raise OSError(code, os.strerror(code), str(new))
    if old.is_dir():
        os.rename(old, new)  # replaces nothing but an empty folder
    else:
        os.link(old, new)  # replaces nothing; the old name goes with its folder


@contextmanager
def atomic_file(target: str | Path) -> Iterator[Path]:
    """Yields a temporary path for one file; renames it when the body ends, removes it when it raises."""
    replacement = AtomicOutput(target)
    with replacement.discarded_on_error():
        yield replacement.temporary
    replacement.publish()


class Output(ABC):
    """An output that, as a context manager, is published when the body ends and discarded when it raises."""

    @abstractmethod
    def close(self) -> None:
        """Finishes the output and gives it its name."""

    @abstractmethod
    def discard(self) -> None:
        """Removes what was written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with uninterrupted():
            if error is None:
                self.close()
            else:
                self.discard()
