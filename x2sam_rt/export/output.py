"""The folder a bundle is written to: complete under its name or not there at all, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from x2sam_rt.errors import BundleError
from x2sam_rt.runtime.bundle import MANIFEST

_log = logging.getLogger(__name__)
_PARTIAL = ".{}.partial"
_AT_WORKING_FOLDER = -100
_NO_REPLACE, _EXCHANGE = 1, 2
# What the kernel says of a file system (or a C library) that cannot rename in these ways.
_UNABLE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}


def check_output(output: Path, overwrite: bool) -> None:
    """Raises BundleError when something is there, unless it is a bundle that may be overwritten."""
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise BundleError(f"{output} exists already. Choose another folder, or pass --overwrite to replace the bundle.")
    if not (output / MANIFEST).is_file():
        raise BundleError(f"{output} exists and is no bundle, so it is not overwritten. Choose another folder.")


@contextlib.contextmanager
def bundle_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder beside `output` that takes its name when the body is done, and vanishes when it fails or is interrupted.

    A process killed at any moment leaves the old bundle or the new one under the name, and at most a hidden folder
    beside it, which the next export to the same name removes. Nothing but a bundle is ever replaced.

    Raises BundleError when `output` exists (unless overwrite replaces a bundle there), before the body or by its end;
    when another process exports to it; when the disk cannot take it.
    """
    output = output.resolve()
    check_output(output, overwrite)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _mention_others(output)
        with _partial_folder(output) as partial:
            folder = partial / "bundle"
            folder.mkdir()
            yield folder
            _publish(folder, output, overwrite)
    except OSError as error:
        raise BundleError(
            f"Cannot write {output}: {error}. Nothing was left there; free space or choose another folder, then export "
            "again."
        ) from error


@contextlib.contextmanager
def _partial_folder(output: Path) -> Iterator[Path]:
    """Ours alone while the body runs, removed with all it holds afterwards."""
    partial = output.with_name(_PARTIAL.format(output.name))
    lock = _locked(partial, output)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def _locked(partial: Path, output: Path) -> int:
    """The open, locked, empty folder. The lock is on the folder itself and goes with the process."""
    while True:
        with contextlib.suppress(FileExistsError):
            partial.mkdir()
        try:
            lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # another export has just ended
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BundleError(
                f"Another process is exporting to {output} now. Wait for it, or choose another folder."
            ) from None
        if _is_still(partial, lock):
            _clear(partial)
            return lock
        os.close(lock)


def _mention_others(output: Path) -> None:
    """What exports to other names left beside this one when they were killed takes space until somebody removes it."""
    for partial in output.parent.glob(_PARTIAL.format("*")):
        if partial.name != _PARTIAL.format(output.name) and _is_left(partial):
            size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
            _log.warning("%s: %.2f GB that a killed export left there. Remove it.", partial, size / 1e9)


def _is_left(partial: Path) -> bool:
    """Whether nobody holds it."""
    try:
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone, or another user's
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(lock)


def _is_still(partial: Path, lock: int) -> bool:
    """Whether the locked folder has its name still: the one who held it before may have removed it."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(partial), os.fstat(lock))
    return False


def _clear(partial: Path) -> None:
    left = list(partial.iterdir())
    if not left:
        return
    _log.warning("%s: removed what an export that was killed had left there.", partial)
    for path in left:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _publish(folder: Path, output: Path, overwrite: bool) -> None:
    check_output(output, overwrite)
    try:
        if os.path.lexists(output):
            _replace(folder, output)
        else:
            _rename(folder, output, _NO_REPLACE)
    except FileExistsError:
        raise BundleError(f"{output} appeared during the export and was left alone. Choose another folder.") from None


def _replace(folder: Path, output: Path) -> None:
    """Both have a name at every moment. What was no bundle when it was replaced gets its name back."""
    _rename(folder, output, _EXCHANGE)
    if not (folder / MANIFEST).is_file():
        _rename(folder, output, _EXCHANGE)
        raise BundleError(f"{output} became something that is no bundle during the export and was left alone.")


def _rename(old: Path, new: Path, flag: int) -> None:
    """Raises OSError."""
    system = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(old), os.fsencode(new)
    if not system.renameat2(_AT_WORKING_FOLDER, names[0], _AT_WORKING_FOLDER, names[1], flag):
        return
    code = ctypes.get_errno()
    if flag == _NO_REPLACE and code in _UNABLE:
        # The plain call replaces nothing but an empty folder.
        os.rename(old, new)
        return
    if flag == _EXCHANGE and code in _UNABLE:
        raise BundleError(
            f"{new}: its file system cannot exchange two names, without which a kill could leave half a bundle. "
            "Export to another folder, then move it there yourself."
        )
    raise OSError(code, os.strerror(code), str(new))
