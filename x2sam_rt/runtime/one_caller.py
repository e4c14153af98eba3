"""One call at a time into what belongs to one thread at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from x2sam_rt.errors import SessionError

CLOSED = "This session is closed; open another with Runtime.stream(…)."


class OneCaller:
    """Lets one call in at a time: another one meanwhile, from any thread, is refused; who closes waits."""

    def __init__(self) -> None:
        self._lock, self._caller, self._closed = threading.Lock(), 0, False

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Raises SessionError while another call is in progress, and once it is being closed."""
        if self._closed:
            raise SessionError(CLOSED)
        if not self._lock.acquire(blocking=False):
            raise SessionError(
                "This session is in use by another call. Use a session from one thread at a time, and not from its own "
                "on_text or on_answer; sessions of one runtime may run in different threads."
            )
        with self._held():
            yield

    @property
    def is_this_thread(self) -> bool:
        """Whether the call in progress is further up."""
        return self._caller == threading.get_ident()

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        self._closed = True
        self._lock.acquire()
        with self._held():
            yield

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        self._caller = threading.get_ident()
        try:
            yield
        finally:
            self._caller = 0
            self._lock.release()
