"""Many videos, one result each, whatever is killed meanwhile.

Workers segment (`serve/processes.py` here, `serve/cluster.py` on a cluster); this process alone gives a result its
name, so that there is one of each, whole. What has a result is done, and running the same again goes on with the rest.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from x2sam_rt import errors
from x2sam_rt.documents import MOST_BYTES, parse_object, read_json, read_plain_file, shown
from x2sam_rt.errors import ConfigError, EngineError, X2SamError
from x2sam_rt.media.atomic import AtomicOutput, atomic_file, naming_write_errors, nothing
from x2sam_rt.media.sources import VideoFile
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.runtime.asking import ONCE, ReAsk
from x2sam_rt.runtime.bundle import read_manifest
from x2sam_rt.runtime.run import answer_video, run_video
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.writers import CocoRleWriter
from x2sam_rt.tasks.instruction import Instruction

MANIFEST_SUFFIX = ".jsonl"
_PLAN, _REPORT = "batch.json", "report.json"
_MOST_LOSSES = 3  # workers that may end over one video, or one after the other as they load
_MOST_NAME = 200  # characters of a file's name, beside its suffix


@dataclass(frozen=True)
class Segmenter:
    """What workers load."""

    bundle: Path
    context: int | None = None
    knobs: ModelKnobs = ModelKnobs()  # noqa: RUF009 (frozen)
    again: ReAsk = ONCE

    def load(self, device: str | None) -> Runtime:
        """Raises as `Runtime.load`."""
        return Runtime.load(self.bundle, device=device, context=self.context, knobs=self.knobs)

    def described(self) -> dict[str, Any]:
        """What results depend on."""
        sha256 = read_manifest(self.bundle).sha256
        return {"bundle": sha256, "context": self.context, "knobs": str(self.knobs), "again": asdict(self.again)}


@dataclass(frozen=True, eq=False)
class BatchVideo:
    """name: of its result, without suffix."""

    name: str
    path: Path
    instruction: Instruction

    def described(self) -> dict[str, Any]:
        return {"video": str(self.path.absolute()), "instruction": self.instruction.to_json()}


@dataclass(frozen=True)
class Outcome:
    """frames: that were segmented. error: why there is no result."""

    frames: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Failure:
    """An error of ours that crosses processes by its name."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: X2SamError) -> Failure:
        return cls(type(error).__name__, str(error))

    def error(self) -> X2SamError:
        found: X2SamError = getattr(errors, self.kind)(self.message)
        return found


@dataclass(frozen=True)
class Heard:
    """What a worker says: ready (once, when it has loaded), done with its video, or nothing any more."""

    worker: int
    kind: Literal["ready", "done", "lost"]
    outcome: Outcome = Outcome()
    why: str = ""


class Workers(Protocol):
    """Numbered; one that is lost is replaced by another of the same number."""

    def give(self, worker: int, video: BatchVideo) -> None:
        """To one that is ready or done."""

    def hear(self) -> Heard:
        """Waits. Raises the error of a worker that cannot load."""

    def collect(self, worker: int, video: BatchVideo, target: Path) -> None:
        """Moves the result of what it has done to a path in the batch's own folder."""

    def close(self) -> None: ...


Report = dict[str, dict[str, Any]]


class Batch:
    """The results in a folder. As a context manager it owns the folder: another process is refused meanwhile.

    segmenter, videos: of this run. Raises ConfigError when the folder holds results of another bundle or instruction,
    VideoError when it cannot be written or another process writes it.
    """

    def __init__(self, segmenter: Segmenter, videos: Sequence[BatchVideo], folder: Path) -> None:
        self.folder, self.segmenter = folder, segmenter
        with naming_write_errors(folder):
            folder.mkdir(exist_ok=True)
        self._report_file = AtomicOutput(folder / _REPORT)
        with self._report_file.discarded_on_error():
            # Of this run alone: what a killed run's workers still write, they write to a folder that is gone.
            self.unfinished = Path(tempfile.mkdtemp(dir=self._report_file.temporary.parent))
            _record(folder / _PLAN, segmenter, videos)
        there = [video for video in videos if self.result(video).exists()]
        self.report: Report = {video.name: {"video": str(video.path), "state": "waiting"} for video in videos}
        for video in there:
            self.report[video.name]["state"] = "there"
        self.waiting = deque(video for video in videos if video not in there)
        self._busy: dict[int, BatchVideo] = {}
        self._losses: Counter[str] = Counter()  # of workers, by the video's name; "" = as they loaded

    def result(self, video: BatchVideo) -> Path:
        """JSON lines, as `x2sam-rt run -o masks.jsonl` writes them."""
        return self.folder / f"{video.name}.jsonl"

    @property
    def failed(self) -> list[str]:
        return [name for name, entry in self.report.items() if entry["state"] == "failed"]

    def run(self, workers: Workers, on_outcome: Callable[[BatchVideo, Outcome], None]) -> None:
        """Until every video has its result or has failed."""
        idle: list[int] = []
        while self.waiting or self._busy:
            while self.waiting and idle:
                worker, video = idle.pop(), self.waiting.popleft()
                self._busy[worker] = video
                workers.give(worker, video)
            heard = workers.hear()
            at_work = self._busy.pop(heard.worker, None)
            idle = [one for one in idle if one != heard.worker] + [heard.worker] * (heard.kind != "lost")
            outcome = self._outcome(heard, at_work)
            if at_work is not None and outcome is not None:
                if outcome.error is None:
                    self._publish(workers, heard.worker, at_work)
                self._note(at_work, outcome)
                on_outcome(at_work, outcome)

    def close(self) -> None:
        """Writes the report; what was not finished is gone."""
        shutil.rmtree(self.unfinished, ignore_errors=True)
        entries = [{"name": name, **entry} for name, entry in self.report.items()]
        with self._report_file.discarded_on_error():
            self._report_file.temporary.write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", "utf-8")
        self._report_file.publish()

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _outcome(self, heard: Heard, video: BatchVideo | None) -> Outcome | None:
        """None: there is none yet, and a video that lost its worker is tried again. Raises EngineError where no worker
        comes to work."""
        if heard.kind != "lost":
            self._losses[""] = 0
            return heard.outcome
        name = "" if video is None else video.name
        self._losses[name] += 1
        tried = self._losses[name]
        if tried < _MOST_LOSSES:
            self.waiting.extend([] if video is None else [video])
            return None
        if video is None:
            raise EngineError(f"{tried} workers ended as they loaded ({heard.why}); what they wrote above says why.")
        return Outcome(error=f"{tried} workers ended over it, the last by {heard.why}.")

    def _publish(self, workers: Workers, worker: int, video: BatchVideo) -> None:
        target = AtomicOutput(self.result(video), replaces=nothing)
        with target.discarded_on_error():
            workers.collect(worker, video, target.temporary)
        target.publish()

    def _note(self, video: BatchVideo, outcome: Outcome) -> None:
        entry = self.report[video.name]
        entry["state"] = "done" if outcome.error is None else "failed"
        entry.update({name: value for name, value in asdict(outcome).items() if value is not None})


def segment_file(runtime: Runtime, video: BatchVideo, again: ReAsk, target: Path) -> Outcome:
    """A worker's part: one video's result at `target`, or why there is none."""
    began, frames = time.perf_counter(), 0
    try:
        with VideoFile(video.path) as source:
            if not video.instruction.row.draws_masks:
                text = answer_video(runtime, source, video.instruction)
                with atomic_file(target) as path:
                    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", "utf-8")
            else:
                with CocoRleWriter(target, replaces=nothing) as writer:
                    frames = sum(1 for _ in run_video(runtime, source, video.instruction, [writer], again=again))
    except X2SamError as error:
        return Outcome(frames, time.perf_counter() - began, f"{type(error).__name__}: {error}")
    return Outcome(frames, time.perf_counter() - began)


def batch_videos(given: Iterable[Path], instruction: Instruction | None) -> list[BatchVideo]:
    """Video files, and manifests: JSON lines with `video` (relative to the manifest), and if need be `name` and the
    fields of an instruction of its own. Raises ConfigError, PromptError."""
    videos: list[BatchVideo] = []
    for path in given:
        videos += read_batch_manifest(path, instruction) if path.suffix == MANIFEST_SUFFIX else [
            BatchVideo(_name(path.stem, path), path, _asked(instruction, path))
        ]  # fmt: skip
    first: dict[str, BatchVideo] = {}
    for video in videos:
        if (other := first.setdefault(video.name, video)) is not video:
            raise ConfigError(
                f"{other.path} and {video.path} would both have the result {video.name}.jsonl. Give them other "
                "names in a manifest."
            )
    return videos


def read_batch_manifest(path: Path, instruction: Instruction | None) -> list[BatchVideo]:
    """instruction: of lines that have none. Raises ConfigError, PromptError."""
    lines = read_plain_file(path, 16 * MOST_BYTES).splitlines()
    return [
        _read_line(parse_object(line, f"{path}, line {number}"), path, number, instruction)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _read_line(entry: dict[str, Any], path: Path, number: int, instruction: Instruction | None) -> BatchVideo:
    where = f"{path}, line {number}"
    video, name = entry.pop("video", None), entry.pop("name", None)
    if not isinstance(video, str) or not isinstance(name, str | None):
        raise ConfigError(f'{where}: wanted {{"video": "clip.mp4"}}, with a "name" that is a text where there is one.')
    own = Instruction.from_json(entry) if entry else _asked(instruction, where)
    place = path.parent / video
    return BatchVideo(_name(place.stem if name is None else name, where), place, own)


def _asked(instruction: Instruction | None, where: object) -> Instruction:
    if instruction is None:
        raise ConfigError(f"{where}: nothing is asked of it. Give --prompt, or an instruction in a manifest.")
    return instruction


def _name(name: str, where: object) -> str:
    """A file's name in the folder of results, which is none of the batch's own and leads nowhere else."""
    sound = name.isprintable() and 0 < len(name.encode()) <= _MOST_NAME
    if not sound or "/" in name or name.startswith("."):
        raise ConfigError(f"{where}: {name!r} cannot name a result; give another name in a manifest.")
    return name


def _record(path: Path, segmenter: Segmenter, videos: Sequence[BatchVideo]) -> None:
    """Keeps what the results are of. Raises ConfigError when those that are there are of something else."""
    wanted = json.loads(json.dumps(dict(_described(segmenter, videos))))
    found = read_json(path, 64 * MOST_BYTES) if path.exists() else {}
    for name, value in wanted.items():
        if found.get(name, value) != value:
            raise ConfigError(
                f"{path}: {name} is there of another {_difference(found[name], value)}. Choose another folder, or for "
                "a video another name, in a manifest."
            )
    with atomic_file(path) as file:
        file.write_text(json.dumps({**found, **wanted}, ensure_ascii=False) + "\n", "utf-8")


def _described(segmenter: Segmenter, videos: Sequence[BatchVideo]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "all", segmenter.described()
    for video in videos:
        yield f"result {video.name}", video.described()


def _difference(found: Any, wanted: Any, where: str = "") -> str:
    """The first place where two documents differ, with what is there."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in [*wanted, *found]:
            if found.get(name) != wanted.get(name):
                return _difference(found.get(name), wanted.get(name), f"{where}.{name}".lstrip("."))
    return f"{where}: {shown(found)}; this run has {shown(wanted)}"
