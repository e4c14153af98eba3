"""The folder a bundle is written to: complete under its name or not there at all, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from x2sam_rt.documents import read_json
from x2sam_rt.errors import BundleError, ConfigError
from x2sam_rt.media.atomic import AtomicOutput, naming_write_errors, nothing
from x2sam_rt.runtime.bundle import MANIFEST

_log = logging.getLogger(__name__)


def check_output(output: Path, overwrite: bool) -> None:
    """Raises BundleError when something is there, unless it is a bundle that may be overwritten."""
    with naming_write_errors(output, BundleError):
        if not os.path.lexists(output):
            return
        if not overwrite:
            raise BundleError(
                f"{output} exists already. Choose another folder, or pass --overwrite to replace the bundle."
            )
        if not _is_bundle(output):
            raise BundleError(
                f"{output} exists and is no bundle, or holds files that are no part of one, so it is not overwritten. "
                "Choose another folder."
            )


def _is_bundle(path: Path) -> bool:
    """Whether it has a manifest that lists files, of whatever version, and holds nothing else: a `manifest.json` alone
    is no bundle, and notes that somebody put into one are theirs."""
    try:
        listed = read_json(path / MANIFEST).get("files")
    except ConfigError:
        return False
    own = {path / name for name in (MANIFEST, *listed)} if isinstance(listed, dict) else set()
    return bool(own) and all(one in own or (one.is_dir() and not one.is_symlink()) for one in path.rglob("*"))


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
    with naming_write_errors(output, BundleError):
        output.parent.mkdir(parents=True, exist_ok=True)
        _mention_others(output)
        folder = AtomicOutput(output, folder=True, replaces=_is_bundle if overwrite else nothing, error=BundleError)
        with folder.discarded_on_error():
            yield folder.temporary
        folder.publish()


def _mention_others(output: Path) -> None:
    """What killed processes left beside this name, under others, takes space until somebody removes it."""
    for hidden in output.parent.glob(".*.partial"):
        if hidden.name != f".{output.name}.partial" and _is_left(hidden):
            size = sum(path.stat().st_size for path in hidden.rglob("*") if path.is_file())
            _log.warning("%s: %.2f GB that a killed process left there. Remove it.", hidden, size / 1e9)


def _is_left(hidden: Path) -> bool:
    """Whether nobody holds its lock (see `AtomicOutput`)."""
    try:
        lock = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone, or another user's
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
