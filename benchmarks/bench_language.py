"""What prompting costs: the first question, the next ones on the same frames, ten at once, and asks beside a stream.

    python benchmarks/bench_language.py [--threads 2] [--frames 2000]

A Qwen3-VL of random weights (hidden 512, 8 layers) is asked about 16 frames of 448×256, in turns with transformers'
`generate(output_hidden_states=True)` on the same weights, frames and words; then two streams of the embedded model take
turns, one with an ask beside it every 20 frames, one with none. Writes benchmarks/results/language.json. Exit 1 when a
bound below does not hold. Ratios stand a busy machine; waits and the slowest of 2000 frames do not.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timer import compare, save
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.model.preprocess import tokens_per_pair, vision_input, vision_size
from x2sam_rt.model.prompt_encoder import VISUAL_PLACE, PromptEncoder, prompt_tokens
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.frames_first import FrameInProgress, FramesFirst
from x2sam_rt.runtime.language import LanguageRuntime
from x2sam_rt.runtime.profile import resident_mb
from x2sam_rt.runtime.prompt_frames import PROMPT_FRAMES, PromptFrames
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.session import VideoSession
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.table import DEFAULT_WORDING

HEIGHT, WIDTH, CONTEXT = 256, 448, 4096
PHRASES, QUESTIONS, ASK_EVERY, WARM_UP = 10, 50, 20, 40
FIRST, SECOND, TEN, GROWTH_MB, WAIT = 1.1, 5.0, 2.0, 5.0, 1.5
Row = dict[str, object]


def benchmark_config(toy: ModelConfig) -> ModelConfig:
    """The toy's, with a language model whose work counts."""
    text = {
        **toy.language["text_config"],
        "vocab_size": 4096,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "rope_scaling": {"rope_type": "default", "mrope_section": [12, 10, 10], "mrope_interleaved": True},
    }
    vision = {
        **toy.language["vision_config"],
        "depth": 6,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_heads": 4,
        "out_hidden_size": 512,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [1, 3, 5],
    }
    return replace(toy, language={**toy.language, "text_config": text, "vision_config": vision})


class Asked:
    """The language side and transformers' model on the same weights, asked about clips that nobody has seen yet."""

    def __init__(self) -> None:
        checkpoint = load_checkpoint(embedded_checkpoint())
        self.config = benchmark_config(checkpoint.model.config)
        torch.manual_seed(0)
        self.model = X2SAM(self.config).eval()
        self.tokenizer = Tokenizer.load(checkpoint.tokenizer_folder, 4096)
        self.language = LanguageRuntime(
            PromptEncoder(self.model), no_regions, self.tokenizer, self.config, DEFAULT_WORDING, CONTEXT
        )
        noise = torch.randint(0, 256, (PROMPT_FRAMES, HEIGHT, WIDTH, 3), dtype=torch.uint8)
        self._clips = self._new_clips(noise)
        self._words = itertools.count()
        self.ids, self.pair_tokens = self._stock_ids()

    def _new_clips(self, noise: Tensor) -> Iterator[PromptFrames]:
        for number in itertools.count():
            noise[:, 0, 0] = torch.tensor([number % 256, number // 256, 0])
            yield PromptFrames(tuple(noise), {})

    def clip(self) -> PromptFrames:
        """Frames that were not seen before; they hold until the next ones."""
        return next(self._clips)

    def phrase(self) -> Instruction:
        return Instruction(phrases=(f"thing number {next(self._words)} of many",))

    def first(self) -> None:
        self.language.answer(self.phrase(), "video", self.clip())

    def again(self, frames: PromptFrames) -> None:
        self.language.answer(self.phrase(), "video", frames)

    def ten(self) -> None:
        self.language.answer_all([self.phrase() for _ in range(PHRASES)], "video", self.clip())

    @torch.inference_mode()
    def stock(self) -> None:
        """The same prompt, known answer included, through transformers; one token more than is needed is generated."""
        vision = vision_input(self.clip().frames, self.config.video_budget, video=True)
        pairs = len(vision.patches)
        self.model.vlm.generate(
            input_ids=self.ids,
            attention_mask=torch.ones_like(self.ids),
            mm_token_type_ids=2 * (self.ids == self.model.vlm.config.video_token_id).long(),
            pixel_values_videos=vision.patches.flatten(0, 1),
            video_grid_thw=torch.tensor([[pairs, vision.height, vision.width]]),
            max_new_tokens=1,
            do_sample=False,
            pad_token_id=0,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )

    def _stock_ids(self) -> tuple[Tensor, int]:
        count = tokens_per_pair(vision_size(HEIGHT, WIDTH, PROMPT_FRAMES, self.config.video_budget))
        instruction = self.phrase()
        prompt = prompt_tokens(
            self.tokenizer,
            "video",
            PROMPT_FRAMES // 2,
            count,
            instruction.question_text("video", DEFAULT_WORDING),
            instruction.answer_text(DEFAULT_WORDING),
        )
        video = self.model.vlm.config.video_token_id
        return torch.where(prompt.ids == VISUAL_PLACE, video, prompt.ids)[None], count


def no_regions(pixels: Tensor) -> Tensor:
    raise AssertionError("no question here has a region")


def measure_questions(asked: Asked) -> list[Row]:
    first = compare(asked.first, asked.stock, rounds=7)
    seen = asked.clip()
    asked.again(seen)
    second = compare(lambda: asked.again(seen), asked.first, rounds=7)
    ten = compare(asked.ten, asked.first, rounds=7)
    return [
        _row(
            "first question / transformers", first.own.median_ms, 1 / first.speedup, FIRST, 1 / first.speedup <= FIRST
        ),
        _row("first question / second", second.own.median_ms, second.speedup, SECOND, second.speedup >= SECOND),
        _row(f"{PHRASES} phrases / one", ten.own.median_ms, 1 / ten.speedup, TEN, 1 / ten.speedup <= TEN),
    ]


def measure_memory(asked: Asked) -> Row:
    """Resident memory from one question to many, on frames that change all the time."""
    for _ in range(5):
        asked.first()
    before = resident_mb()
    for _ in range(QUESTIONS):
        asked.first()
    growth = resident_mb() - before
    row = _row(f"resident after {QUESTIONS} more questions, MiB", growth, growth, GROWTH_MB, growth <= GROWTH_MB)
    return {
        **row,
        "stated_mib": round((asked.language.cache_bytes + asked.language.vision.largest_seen_bytes) / 2**20, 1),
    }


@dataclass(frozen=True)
class FrameCost:
    """Milliseconds from the end of the frame before to the end of this one, the ask included. waited: for the answer to
    end its piece. shared: the answering thread's work while the frame was in progress. others: waited for a core, over
    all threads but that one. beside: an ask was being answered when the frame came."""

    frame: int
    ms: float
    waited: float
    shared: float
    others: float
    beside: bool


class WatchedTurns(FramesFirst):
    """Tells what the last frame had to wait for and to share, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = self.shared = 0.0
        self._clock, self._answering = time.CLOCK_THREAD_CPUTIME_ID, 0
        self._open = dict[str, int]()

    @contextlib.contextmanager
    def frame(self) -> Iterator[FrameInProgress]:
        came = time.perf_counter()
        with super().frame() as turn:
            self.waited = time.perf_counter() - came
            clock = self._clock
            worked = time.clock_gettime(clock)
            yield turn
            self.shared = time.clock_gettime(clock) - worked if self._answering else 0.0

    @contextlib.contextmanager
    def answer(self) -> Iterator[None]:
        self._clock, self._answering = time.pthread_getcpuclockid(threading.get_ident()), threading.get_native_id()
        with super().answer():
            yield

    @property
    def others(self) -> float:
        """That all threads but the answering one waited for a core so far."""
        tasks = [task for task in os.listdir("/proc/self/task") if task != str(self._answering)]
        return sum(int(self._schedule(task).split()[1]) for task in tasks) / 1e9

    def _schedule(self, task: str) -> bytes:
        if task not in self._open:
            self._open[task] = os.open(f"/proc/self/task/{task}/schedstat", os.O_RDONLY)
        return os.pread(self._open[task], 100, 0)


def measure_stream(bundle: Path, frames: int) -> list[Row]:
    """Two streams of the embedded model take turns of 20 frames without a pause, the same ones for both, never one
    twice: one is asked something beside each 20, the other nothing.

    The bound is for what an ask makes a frame wait: the most that an answer took of one, by its turn before that frame
    or by its work meanwhile, and the median of the stream without asks. The slowest frames of both streams, whatever
    made them slow, stand beside it: machines have some of their own.
    """
    asked, alone, answered = stream_costs(bundle, frames)
    beside = np.array([cost.ms for cost in asked if cost.beside])
    quiet = np.array([cost.ms for cost in alone])
    median = float(np.median(quiet))
    worst, taken = float(beside.max()), max(cost.waited + cost.shared for cost in asked)
    because = 1 + taken / median
    return [
        _row("a frame made to wait by an ask / median without asks", taken, because, WAIT, because <= WAIT),
        {
            "what": "slowest frame beside an ask / median without asks",
            "own": round(worst, 2),
            "value": round(worst / median, 3),
        },
        {"what": "slowest frame without asks / median", "own": round(quiet.max(), 2), "value": _ratio(quiet, 100)},
        {"what": "p99 beside an ask / median without asks", "value": round(np.percentile(beside, 99) / median, 3)},
        {"what": "p99 without asks / median", "value": _ratio(quiet, 99)},
        {
            "what": "frames, ms",
            "alone": _spread(quiet, WAIT * median),
            "beside": _spread(beside, WAIT * median),
            "answers": len(answered),
            "answer_p50_ms": round(float(np.median(answered)), 1),
            "slowest": [_rounded(cost) for cost in sorted(asked, key=lambda cost: -cost.ms)[:5]],
        },
    ]


def _ratio(times: np.ndarray, percentile: float) -> float:
    return round(float(np.percentile(times, percentile) / np.median(times)), 3)


def _rounded(cost: FrameCost) -> dict[str, object]:
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in asdict(cost).items()}


def _spread(times: np.ndarray, bound: float) -> dict[str, float]:
    p50, p90, p99 = (round(float(value), 2) for value in np.percentile(times, (50, 90, 99)))
    late = round(float((times > bound).mean()), 4)
    return {"frames": len(times), "p50": p50, "p90": p90, "p99": p99, "max": round(float(times.max()), 2), "late": late}


def stream_costs(bundle: Path, frames: int) -> tuple[list[FrameCost], list[FrameCost], list[float]]:
    """Of the stream with asks and of the one without; milliseconds from asks to answers."""
    asked, alone, answered = list[FrameCost](), list[FrameCost](), list[float]()
    clip = make_clip(0, ClipSettings(side=256, frames=96)).frames
    with Runtime.load(bundle) as runtime:
        turns = runtime.language.frames_first = WatchedTurns()
        streams = ((runtime.stream("the red circle"), asked), (runtime.stream("the red circle"), alone))
        for start, (session, costs) in itertools.product(range(-WARM_UP, frames, ASK_EVERY), streams):
            began = time.perf_counter()
            for index in range(start, start + ASK_EVERY):
                frame = _never_twice(clip, index + WARM_UP)
                ask = index if index == start and costs is asked else None
                cost = _step(turns, session, frame, index, ask, began, answered)
                began = time.perf_counter()
                if index >= 0:
                    costs.append(cost)
            session.wait_for_answer()
    return asked, alone, answered


def _step(
    turns: WatchedTurns,
    session: VideoSession,
    frame: np.ndarray,
    index: int,
    ask: int | None,
    began: float,
    answered: list[float],
) -> FrameCost:
    """began: when the frame before had ended."""
    waiting = turns.others
    if ask is not None:
        asked = time.perf_counter()
        session.ask(f"the thing of frame {ask}", wait=False, on_answer=lambda *_: answered.append(_since(asked)))
    beside = session.waiting
    session.step(frame)
    took, others = _since(began), turns.others - waiting
    return FrameCost(index, took, turns.waited * 1e3, turns.shared * 1e3, others * 1e3, beside)


def _never_twice(clip: np.ndarray, number: int) -> np.ndarray:
    """A frame that no other one shares its pixels with, so that nothing seen before spares an answer its work."""
    frame: np.ndarray = clip[number % len(clip)].copy()
    frame[0, 0] = (number % 256, number // 256 % 256, 0)
    return frame


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3


def _row(what: str, own_ms: float, value: float, bound: float, holds: bool) -> Row:
    return {"what": what, "own": round(own_ms, 2), "value": round(value, 3), "bound": bound, "holds": bool(holds)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    asked = Asked()
    rows = [*measure_questions(asked), measure_memory(asked)]
    with tempfile.TemporaryDirectory() as work:
        bundle = Path(work) / "bundle"
        export_bundle(ExportPlan(load_checkpoint(embedded_checkpoint()), "torch"), bundle)
        rows += measure_stream(bundle, options.frames)
    table = Table("what", "ms", "value", "bound", "holds")
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in ("what", "own", "value", "bound", "holds")))
    console = Console(width=100)
    console.print(table, rows[-1], f"written to {save('language', rows)}")
    return 0 if all(row.get("holds", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
