"""Files and folders that appear under their name only when they are complete."""

from __future__ import annotations

import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from x2sam_rt.errors import VideoError


@contextmanager
def naming_write_errors(target: Path) -> Iterator[None]:
    """Turns the system's refusal (full disk, missing rights) into a VideoError that names `target`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise VideoError(
            f"{target}: cannot be written ({reason}). Check the folder's free space and rights, "
            "or choose another output path."
        ) from error


def require_free(target: Path, *, folder: bool = False) -> None:
    """Raises VideoError if the parent is no folder, the target is one, or (for a folder) exists at all."""
    if not target.parent.is_dir():
        raise VideoError(f"{target}: there is no folder {target.parent}. Create it first.")
    if target.is_dir() or (folder and target.exists()):
        raise VideoError(f"{target}: exists already. Remove it or choose another output path.")


class AtomicOutput:
    """A file or folder under a temporary name beside its target (a rename cannot cross file systems).

    The temporary name ends like the target's, because encoders choose their format by it. A file replaces an
    older file of its name; a folder does not, since that would delete what it holds. Raises VideoError as
    require_free does.
    """

    def __init__(self, target: str | Path, *, folder: bool = False) -> None:
        self.target = Path(target)
        self.temporary = self.target.parent / f".{uuid.uuid4().hex[:8]}.{self.target.name}"
        require_free(self.target, folder=folder)
        if folder:
            with naming_write_errors(self.target):
                self.temporary.mkdir()

    def publish(self) -> None:
        """Gives the finished file or folder its name. Raises VideoError if the system refuses."""
        with naming_write_errors(self.target):
            os.replace(self.temporary, self.target)

    def discard(self) -> None:
        """Removes what was written so far; the target, if it existed, is untouched."""
        if self.temporary.is_dir():
            shutil.rmtree(self.temporary)
        else:
            self.temporary.unlink(missing_ok=True)


@contextmanager
def atomic_file(target: str | Path) -> Iterator[Path]:
    """Yields a temporary path for one file; renames it when the body ends, removes it when it raises."""
    replacement = AtomicOutput(target)
    try:
        with naming_write_errors(replacement.target):
            yield replacement.temporary
        replacement.publish()
    except BaseException:
        replacement.discard()
        raise


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
        if error is None:
            self.close()
        else:
            self.discard()
