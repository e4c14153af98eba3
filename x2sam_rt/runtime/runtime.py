"""A loaded bundle: engines, language model and tokenizer, ready for streams and images."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from weakref import WeakSet

import torch

from x2sam_rt.errors import FrameError, SessionError, X2SamError
from x2sam_rt.media.source import WHOLE, FrameSource, Part
from x2sam_rt.media.sources import ImageSequence, open_source
from x2sam_rt.media.types import Pixels
from x2sam_rt.model.frame_layout import RGB, Frame, Layout, as_frame
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.model.prompt_encoder import PromptEncoder
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.asking import ONCE, ReAsk
from x2sam_rt.runtime.bundle import TOKENIZER, WORDING, BundleFiles, Manifest, read_manifest
from x2sam_rt.runtime.device import device_for
from x2sam_rt.runtime.engines import check_precision, find_backend
from x2sam_rt.runtime.engines.engine import Engines, load_engines
from x2sam_rt.runtime.engines.towers import RegionSourceEngine, VisionTowerEngine
from x2sam_rt.runtime.garbage import LONG_LIVED
from x2sam_rt.runtime.growing_text import OnText
from x2sam_rt.runtime.language import Answer, LanguageRuntime
from x2sam_rt.runtime.pipeline import Pipeline
from x2sam_rt.runtime.prompt_frames import PromptFrames, read_prompt_frames
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.session import VideoSession
from x2sam_rt.runtime.snapshot import read_snapshot
from x2sam_rt.runtime.weights import load_model
from x2sam_rt.tasks.instruction import Instruction, as_instruction
from x2sam_rt.tasks.table import DEFAULT_WORDING, Media
from x2sam_rt.tasks.wording import Wording


class Runtime:
    """Open with `Runtime.load(folder)`, as a context manager. Several sessions may run on one runtime; they share its
    engines and weights and nothing else. Until it is closed, Python's garbage collector leaves alone what existed when
    it was loaded (`runtime/garbage.py`).

    Threads: everything here may be called from any thread, and sessions of one runtime may run in different ones at the
    same time; a session belongs to one thread at a time. Answers of all sessions are given one after the other.
    """

    def __init__(self, manifest: Manifest, engines: Engines, language: LanguageRuntime) -> None:
        self.manifest, self.language = manifest, language
        self._engines: Engines | None = engines
        self._sessions: WeakSet[VideoSession] = WeakSet()
        self._lock = threading.Lock()  # around these two
        LONG_LIVED.hold()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device | None = None,
        check_hashes: bool = False,
        context: int | None = None,
        knobs: ModelKnobs = ModelKnobs(),  # noqa: B008 (frozen)
        wording: str | Path | None = None,
    ) -> Runtime:
        """Reads a bundle.

        device: "cpu", "cuda" or "cuda:N", where everything is done; None = "cuda:0" for engines that were built for
        GPUs, else "cpu". check_hashes: the SHA-256 of every file, rather than of a sample of large ones
        (`runtime.bundle.BundleFiles` says what each finds). context: tokens of the longest prompt with its answer,
        for which memory is taken here (`language.cache_bytes`); None = what the longest prompt of the published
        protocols needs. knobs: what to run otherwise than the bundle was exported. wording: a file of words for
        questions and known answers, in place of the bundle's own: an edited copy of its wording.json.

        Raises BundleError or EngineError when the bundle is incomplete, damaged, or made for something else, or there
        is no such device; CheckpointError for weights or a tokenizer that cannot be read; ConfigError for a context
        or knobs the model was not made for, and for a wording that does not fit the tasks.
        """
        manifest = read_manifest(Path(folder)).turned(knobs)
        files = BundleFiles(Path(folder), manifest.files, check_hashes=check_hashes)
        check_precision(manifest.backend, manifest.precision)
        backend = find_backend(manifest.backend)
        place = device_for(manifest, device)
        model = load_model(manifest, files, place)
        engines = load_engines(backend, manifest.stages, files, model, place)
        runtime = cls.assemble(files, manifest, model, engines, context, wording)
        files.check_rest()
        return runtime

    @classmethod
    def assemble(
        cls,
        files: BundleFiles,
        manifest: Manifest,
        model: X2SAM,
        engines: Engines,
        context: int | None = None,
        wording: str | Path | None = None,
    ) -> Runtime:
        """A runtime of a bundle's language side and any engines. model: holds the language side's weights, on the
        engines' device. context, wording: as for `load`, whose errors it raises."""
        config, rows = manifest.model, manifest.model.language["text_config"]["vocab_size"]
        tokenizer = Tokenizer.parse(files.read(TOKENIZER), rows, str(files.folder / TOKENIZER))
        words = DEFAULT_WORDING.parsed(files.read(WORDING), str(files.folder / WORDING))
        language = LanguageRuntime(
            PromptEncoder(model, VisionTowerEngine(engines.vision_encoder)),
            RegionSourceEngine(engines.frame_encoder),
            tokenizer,
            config,
            words if wording is None else Wording.load(wording, words),
            context,
        )
        return cls(manifest, engines, language)

    def stream(
        self,
        prompt: str | Instruction | Answer | None = None,
        *,
        frames: PromptFrames | None = None,
        on_text: OnText | None = None,
        again: ReAsk = ONCE,
        media: Media = "video",
    ) -> VideoSession:
        """A new stream. prompt: the first instruction, or its answer; a plain text asks for what it refers to. frames:
        what to answer it on (a file's evenly spaced ones); without them the first frame is used. again: when
        instructions are asked again. media: "image" asks as of still images."""
        return self._open(media, prompt, frames, on_text, again)

    def track(
        self,
        source: str | Path | int | FrameSource | Sequence[Frame],
        prompt: str | Instruction,
        part: Part = WHOLE,
        *,
        live: bool | None = None,
        layout: Layout = RGB,
        again: ReAsk = ONCE,
    ) -> Iterator[FrameResult]:
        """Results of a source's frames, each with its `timestamp` and `frame`. source: what `open_source` takes, or one
        that is open (then part and live are its own), or a list or array of frames, which lie as `layout` says (those
        that come one by one are for `VideoSession.step`). Where the source can be read twice, the prompt is answered on
        frames of all of it.

        Raises VideoError, FrameError, PromptError, NoMasksError.
        """
        opened = _opened(source, part, live, layout)
        instruction = as_instruction(prompt)
        with opened:
            frames = read_prompt_frames(opened, instruction, self.manifest.model.video_budget)
            with self.stream(instruction, frames=frames, again=again) as session:
                for frame in opened:
                    yield replace(session.step(frame.pixels), timestamp=frame.timestamp, frame=frame.pixels)

    def resume(self, snapshot: bytes) -> VideoSession:
        """The session that `VideoSession.snapshot` saved, of this bundle, here or on another machine. On the same
        machine, results are bit-equal.

        Raises SnapshotError for what is damaged, of another bundle or version, or no session's; PromptError or
        ConfigError where its instruction is none.
        """
        state = read_snapshot(snapshot, self.manifest.sha256)
        session = self._open(state.media, None, None, None, state.asker.policy)
        try:
            session.restore(state)
        except X2SamError:
            session.close()
            raise
        return session

    def segment_image(
        self, image: Frame, prompt: str | Instruction, *, layout: Layout = RGB, on_text: OnText | None = None
    ) -> FrameResult:
        """One still image: a file, an image of Pillow, (H, W, 3) uint8 RGB, or an array that lies as `layout` says."""
        with self._open("image", prompt, None, on_text) as session:
            return session.step(image, layout)

    def answer_all(
        self, prompts: Sequence[str | Instruction], frames: PromptFrames, media: Media = "video"
    ) -> list[Answer]:
        """Several instructions on the same frames, for streams to begin with. The frames go through the language model
        once, and those instructions together whose answers are known beforehand. Raises as `VideoSession.ask`."""
        return self.language.answer_all([as_instruction(prompt) for prompt in prompts], media, frames)

    @property
    def device(self) -> torch.device:
        """Where the streams' buffers are. Raises SessionError after `close`."""
        return self.engines.device

    @property
    def session_bytes(self) -> int:
        """What a stream's buffers take, beside the frames it keeps. Raises SessionError after `close`."""
        return Pipeline(self.engines, self.manifest.model).num_bytes

    @property
    def engines(self) -> Engines:
        """The stages' engines. Raises SessionError after `close`."""
        if self._engines is None:
            raise SessionError("This runtime is closed; load the bundle again with Runtime.load(…).")
        return self._engines

    def close(self) -> None:
        """Closes all sessions and gives the engines' memory back; waits for the calls in progress. Closing twice is
        allowed; from within `on_text` or `on_answer` it raises SessionError."""
        with self._lock:
            sessions = list(self._sessions)
            for session in sessions:
                session.require_outside()
            engines, self._engines = self._engines, None  # from here on no session is opened
        for session in sessions:
            session.close()
        self.language.close()
        if engines is not None:
            engines.close()
            LONG_LIVED.release()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def _open(
        self,
        media: Media,
        prompt: str | Instruction | Answer | None,
        frames: PromptFrames | None,
        on_text: OnText | None,
        again: ReAsk = ONCE,
    ) -> VideoSession:
        with self._lock:
            session = VideoSession(self.engines, self.language, self.manifest.model, media, again, self.manifest.sha256)
            self._sessions.add(session)
        try:
            if prompt is not None:
                session.ask(prompt, frames=frames, on_text=on_text)
        except BaseException:
            session.close()
            raise
        return session


def _opened(
    source: str | Path | int | FrameSource | Sequence[Frame], part: Part, live: bool | None, layout: Layout
) -> FrameSource:
    if isinstance(source, FrameSource):
        return source
    if isinstance(source, str | Path | int):
        return open_source(source, part, live=live)
    if not isinstance(source, Sequence) and getattr(source, "ndim", 0) != 4:
        kind = f"{type(source).__name__} {getattr(source, 'shape', '')}".strip()
        raise FrameError(
            f"The source is a {kind}; wanted what open_source takes, or a list of frames. One frame is for "
            "segment_image, frames that come one by one are for VideoSession.step."
        )
    if not len(source):
        raise FrameError("The source is a list of no frames; wanted one or more.")

    def pixels(frame: Frame) -> Pixels:
        taken: Pixels = as_frame(frame, layout).cpu().numpy()
        return taken

    return ImageSequence(f"a list of {len(source)} frames", source, part, read=pixels, look_ahead=not live)
