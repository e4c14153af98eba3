"""A loaded bundle: engines, language model and tokenizer, ready for streams and images."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakSet

import numpy as np
from torch import Tensor

from x2sam_rt.errors import SessionError
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.runtime.bundle import LANGUAGE, WORDING, Manifest, load_manifest
from x2sam_rt.runtime.engines import load_engine
from x2sam_rt.runtime.language import LanguageSide
from x2sam_rt.runtime.pipeline import Engines
from x2sam_rt.runtime.prompt_frames import Clip
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.session import OnText, VideoSession
from x2sam_rt.runtime.weights import load_language_model, load_reference_model
from x2sam_rt.tasks import DEFAULT_WORDING, Media, Wording
from x2sam_rt.tasks.ask import Ask


class Runtime:
    """Open with `Runtime.load(folder)`, as a context manager. Several sessions may run on one runtime; they share its
    engines and weights and nothing else."""

    def __init__(self, manifest: Manifest, engines: Engines, language: LanguageSide, wording: Wording) -> None:
        self.manifest = manifest
        self._engines: Engines | None = engines
        self.language, self._wording = language, wording
        self._sessions: WeakSet[VideoSession] = WeakSet()

    @classmethod
    def load(cls, folder: str | Path, *, check_hashes: bool = True) -> Runtime:
        """Reads a bundle. check_hashes: False skips the SHA-256 of the files (their presence and size are checked).

        Raises BundleError or EngineError when the bundle is incomplete, damaged, or made for something else.
        """
        folder = Path(folder)
        manifest = load_manifest(folder, check_hashes=check_hashes)
        load = load_reference_model if manifest.backend == "torch" else load_language_model
        model = load(manifest, folder)
        names = [field.name for field in fields(Engines)]
        engines = Engines(**{name: load_engine(manifest.stage(name), manifest, folder, model) for name in names})
        rows = manifest.model.language["text_config"]["vocab_size"]
        tokenizer = Tokenizer.load(folder / LANGUAGE / "tokenizer", rows)
        language = LanguageSide(model, engines.vision_encoder, tokenizer)
        return cls(manifest, engines, language, Wording.load(folder / WORDING, DEFAULT_WORDING))

    def stream(
        self, prompt: str | Ask | None = None, *, clip: Clip | None = None, on_text: OnText | None = None
    ) -> VideoSession:
        """A new stream. prompt: the first instruction; a plain text asks for what it refers to. clip: frames to answer
        it on (a file's evenly spaced ones); without it the first frame is used."""
        return self._open("video", prompt, clip, on_text)

    def segment_image(
        self, image: np.ndarray[Any, Any] | Tensor, prompt: str | Ask, *, on_text: OnText | None = None
    ) -> FrameResult:
        """One still image, (H, W, 3) uint8 RGB."""
        with self._open("image", prompt, None, on_text) as session:
            return session.step(image)

    @property
    def engines(self) -> Engines:
        """The stages' engines. Raises SessionError after `close`."""
        if self._engines is None:
            raise SessionError("This runtime is closed; load the bundle again with Runtime.load(…).")
        return self._engines

    def close(self) -> None:
        """Closes all sessions and gives the engines' memory back. Closing twice is allowed."""
        for session in list(self._sessions):
            session.close()
        if self._engines is not None:
            self._engines.close()
        self._engines = None

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, media: Media, prompt: str | Ask | None, clip: Clip | None, on_text: OnText | None) -> VideoSession:
        session = VideoSession(self.engines, self.language, self.manifest.model, self._wording, media)
        if prompt is not None:
            session.ask(prompt, clip=clip, on_text=on_text)
        self._sessions.add(session)
        return session
