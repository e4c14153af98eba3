"""The language runtime: an instruction and some frames become the answer that frames are segmented by."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import ConfigError, NoMasksError, SessionError
from x2sam_rt.model.key_value_cache import Branches
from x2sam_rt.model.language import Between, DeepStack
from x2sam_rt.model.preprocess import tokens_per_pair
from x2sam_rt.model.prompt_encoder import (
    VISUAL_PLACE,
    LanguageStates,
    PromptEmbeddings,
    PromptEncoder,
    PromptTokens,
    deep_stack,
    prompt_tokens,
    read_positions,
)
from x2sam_rt.model.stage_contract import require_finite
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.runtime.decoding import AnsweredTokens, GeneratedAnswer, GreedyDecoder, write_together
from x2sam_rt.runtime.device import SideStream
from x2sam_rt.runtime.frame_graph import CudaRecorder, Recorder
from x2sam_rt.runtime.frames_first import BeforeOperations, FramesFirst
from x2sam_rt.runtime.growing_text import GrowingText, OnText
from x2sam_rt.runtime.prompt_cache import Prefix, shared_length, token_keys
from x2sam_rt.runtime.prompt_frames import PromptFrames
from x2sam_rt.runtime.prompt_vision import PromptVision, RegionSource, ShownFrames
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.marks import LinkedText, link, spell
from x2sam_rt.tasks.table import Conditions, Media
from x2sam_rt.tasks.wording import Wording

# Tokens of the default context beside those of the frames: a list of categories, an answer of full length.
_WORDS = 4096


@dataclass(frozen=True, eq=False)
class Answer:
    """What the language model made of an instruction, and all that frames are segmented by until the next one.

    text: as it was generated or given; empty where its words were known beforehand, as those are ours and say
    nothing. embeddings: None where the task draws no masks. region_masks: (regions, S, S) uint8, the visual prompts
    in the segmentor's input grid; None without any.
    """

    instruction: Instruction
    conditions: Conditions
    text: LinkedText
    embeddings: PromptEmbeddings | None
    region_masks: Tensor | None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        embeddings = () if self.embeddings is None else tuple(vars(self.embeddings).values())
        return embeddings if self.region_masks is None else (*embeddings, self.region_masks)


@dataclass(frozen=True, eq=False)
class _Asked:
    """An instruction as a token sequence. keys: what tells its tokens from others. read: (n,) int64, the tokens whose
    states are wanted. regions: (R, 64, dim). generate: the answer is not known beforehand."""

    instruction: Instruction
    prompt: PromptTokens
    keys: list[int]
    read: Tensor
    regions: Tensor | None
    region_masks: Tensor | None
    generate: bool

    @property
    def reusable(self) -> int:
        """Tokens at the beginning whose states nobody reads, so that their keys and values are all there is to them."""
        return int(self.read[0])

    def tokens_at_most(self, context: int) -> int:
        """Of the prompt and the longest answer there may be."""
        longest = len(self.keys) + self.instruction.max_new_tokens * self.generate
        return min(longest, context)


def default_context(config: ModelConfig) -> int:
    """Tokens that the longest prompt of the published protocols needs (the largest image, or 64 frames of a chat, and
    an answer of full length); no more than the model was made for."""
    image = config.image_budget.max_pixels // _pixels_per_token()
    video = config.video_budget.max_pixels // (2 * _pixels_per_token())  # a pair of frames shares its tokens
    return min(max(image, video) + _WORDS, int(config.language["text_config"]["max_position_embeddings"]))


def _pixels_per_token() -> int:
    side = 1024
    return side**2 // tokens_per_pair((side, side))


_ANY_CACHE, _CACHE_SHARE = 2**30, 4


def _check_cache(encoder: PromptEncoder, context: int) -> None:
    """Raises ConfigError when the cache of a context that nobody asked for is out of all proportion to the weights."""
    language = encoder.language
    size = context * language.cache_bytes_per_token
    held = sum(weight.nbytes for weight in language.text.parameters())
    if size > max(_ANY_CACHE, _CACHE_SHARE * held):
        raise ConfigError(
            f"The longest prompt would take {context:,} tokens and {size:,} bytes of cache, beside {held:,} bytes of "
            "weights. Pass context= with the tokens you need."
        )


class Turns:
    """Answers are given one after the other, whatever threads ask, until they are closed."""

    def __init__(self) -> None:
        self._lock, self._taken, self._closed = threading.RLock(), False, False

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        with self._lock:
            self._require_outside("asked")
            if self._closed:
                raise SessionError("This runtime is closed; load the bundle again with Runtime.load(…).")
            self._taken = True
            try:
                yield
            finally:
                self._taken = False

    def close(self) -> None:
        with self._lock:
            self._require_outside("closed")
            self._closed = True

    def _require_outside(self, what: str) -> None:
        """The lock lets the thread that answers pass, which calls `on_text`."""
        if self._taken:
            raise SessionError(f"Something was {what} from within on_text; do it when the answer is complete.")


class LanguageRuntime:
    """Answers instructions. Runs when one arrives, never per frame.

    All sessions of a runtime share it, and with it one key-value cache, taken here; they answer one after the other.
    What was computed for one prompt serves the next as far as both begin with the same frames and words.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        region_source: RegionSource,
        tokenizer: Tokenizer,
        config: ModelConfig,
        wording: Wording,
        context: int | None = None,
        record: Callable[[], Recorder | None] | None = None,
    ) -> None:
        """context: tokens of the longest prompt, its answer included; None = `default_context`. record: makes what
        records a decoding step, and may make None, which calls it; the default records on GPUs.

        Raises ConfigError for a context the model was not made for, and for a default one out of proportion.
        """
        self.encoder, self.tokenizer = encoder, tokenizer
        self._wording = wording
        if context is None:
            context = default_context(config)
            _check_cache(encoder, context)
        cache = encoder.language.new_cache(context)
        if record is None and cache.device.type == "cuda":
            record = partial(CudaRecorder, cache.device)
        self._prefix = Prefix(cache)
        self._decoder = GreedyDecoder(encoder.language, cache, record() if record is not None else None)
        self.vision = PromptVision(encoder, region_source, config, cache.context)
        self.frames_first = FramesFirst()
        self._side = SideStream(cache.device)
        self._turns = Turns()

    @property
    def context(self) -> int:
        """Tokens of the longest prompt, its answer included."""
        return self._prefix.cache.context

    @property
    def device(self) -> torch.device:
        return self._prefix.cache.device

    @property
    def cache_bytes(self) -> int:
        """Of the key-value cache: what the language side takes beside its weights, whatever is asked."""
        return self._prefix.cache.nbytes

    def close(self) -> None:
        """Waits for the answer in progress; from then on there are none. Raises SessionError from within `on_text`."""
        self._turns.close()

    def worded(self, wording: Wording) -> LanguageRuntime:
        """The same with other words for questions and known answers; cache and turns are shared."""
        other = copy.copy(self)
        other._wording = wording
        return other

    def answer(
        self,
        instruction: Instruction,
        media: Media,
        frames: PromptFrames,
        *,
        on_text: OnText | None = None,
        given_up: threading.Event | None = None,
    ) -> Answer:
        """A known answer costs one prefill and no decoding; of a generated one `on_text` gets the text as it grows.
        given_up: of an answer that is made beside a stream, and stands back behind its frames; when it is set,
        SessionError ends the work.

        Raises PromptError for what cannot be asked on these frames or does not fit into the context, NoMasksError
        (with the text) when the model answers without masks, SessionError when called from `on_text` or after the
        runtime was closed, EngineError when what the model computes holds NaN or infinity.
        """
        with self._one_at_a_time(), self._pace(given_up) as between:
            shown = self.vision.show(frames, media, between)
            asked = self._ask(instruction, media, frames, shown, between)
            answer = self._read(asked, self._run(asked, shown, on_text, between))
        self._side.hand_over(answer.tensors)
        return answer

    def answer_all(self, instructions: Sequence[Instruction], media: Media, frames: PromptFrames) -> list[Answer]:
        """Several instructions on the same frames, each as if asked alone: they go through the language model together,
        behind one copy of the frames, as many as the context holds with their longest answers.

        Raises as `answer`, and then answers none.
        """
        with self._one_at_a_time():
            shown = self.vision.show(frames, media)
            asked = [self._ask(instruction, media, frames, shown) for instruction in instructions]
            answers = list(map(self._read, asked, self._run_together(asked, shown)))
        for answer in answers:
            self._side.hand_over(answer.tensors)
        return answers

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        with self._turns.one(), self._side(), torch.inference_mode():
            yield

    @contextlib.contextmanager
    def _pace(self, given_up: threading.Event | None) -> Iterator[Between | None]:
        """What is called between two pieces of an answer's work; None where nothing interrupts it. On a CPU, where a
        layer is long beside a frame, it is called before every operation besides."""
        if given_up is None:
            yield None
            return

        def between() -> None:
            self.frames_first.stand_back()
            if given_up.is_set():
                raise SessionError("The instruction was given up for a later one.")

        with self.frames_first.answer():
            between()
            with BeforeOperations(between) if self.device.type == "cpu" else contextlib.nullcontext():
                yield between

    def _ask(
        self,
        instruction: Instruction,
        media: Media,
        frames: PromptFrames,
        shown: ShownFrames,
        between: Between | None = None,
    ) -> _Asked:
        question = instruction.question_text(media, self._wording)
        answer = instruction.answer_text(self._wording)
        prompt = prompt_tokens(self.tokenizer, media, len(shown.pairs), shown.tokens_per_pair, question, answer)
        ids = prompt.ids.tolist()
        self._prefix.cache.check_room(len(ids))  # before anything costs time
        masks = self.vision.region_masks(instruction.regions, frames)
        return _Asked(
            instruction,
            prompt,
            token_keys(ids, shown.pairs, shown.tokens_per_pair),
            read_positions(ids, prompt.answer_start, self.tokenizer),
            self.vision.see_regions(instruction.regions, masks, frames, between),
            masks,
            generate=answer is None,
        )

    def _run(
        self, asked: _Asked, shown: ShownFrames, on_text: OnText | None, between: Between | None
    ) -> AnsweredTokens:
        start = self._prefix.share(asked.keys, asked.reusable)
        embeds, deepstack = self._feed(asked, shown, start, len(asked.keys), between)
        cache = self._prefix.cache
        values = self.encoder.language.prefill(cache, embeds, deepstack, asked.read - start, between)
        if not asked.generate:
            return self._known(asked, values)
        answer = self._begin(asked, values, on_text)
        self._decoder.write(answer, between)
        return answer.finish()

    def _run_together(self, asked: Sequence[_Asked], shown: ShownFrames) -> Iterator[AnsweredTokens]:
        """The prompts' common beginning once, the rest of each as a branch of it."""
        if not asked:
            return
        base = min(one.reusable for one in asked)
        for other in asked[1:]:
            base = shared_length(asked[0].keys[:base], other.keys)
        cache = self._prefix.cache
        start = self._prefix.share(asked[0].keys[:base], base)
        self.encoder.language.prefill(cache, *self._feed(asked[0], shown, start, base), keep=torch.arange(0))
        sizes = [one.tokens_at_most(self.context) - base for one in asked]
        for group in _groups(sizes, cache.room):
            yield from self._run_branches(asked[group], shown, base)

    def _run_branches(self, asked: Sequence[_Asked], shown: ShownFrames, base: int) -> Iterator[AnsweredTokens]:
        """What follows the first `base` tokens, which the cache holds."""
        language, branches = self.encoder.language, Branches(self._prefix.cache, len(asked))
        embeds = [self._feed(one, shown, base, len(one.keys))[0] for one in asked]
        values = language.prefill_branches(branches, embeds, [one.read - base for one in asked])
        prefilled = list(zip(asked, values, strict=True))
        answers = {index: self._begin(*pair) for index, pair in enumerate(prefilled) if pair[0].generate}
        write_together(language, branches, answers)
        for index, (one, states) in enumerate(prefilled):
            yield answers[index].finish() if one.generate else self._known(one, states)

    def _feed(
        self, asked: _Asked, shown: ShownFrames, start: int, stop: int, between: Between | None = None
    ) -> tuple[Tensor, DeepStack | None]:
        """The tokens start…stop as the language model takes them; the frames among them are looked at."""
        ids = asked.prompt.ids[start:stop]
        count = int((ids == VISUAL_PLACE).sum())
        visual = self.vision.see(shown, count, between) if count else None
        regions = asked.regions if stop == len(asked.keys) else None
        embeds = self.encoder.embed(ids.to(self.encoder.device), visual, regions)
        return embeds, None if visual is None else deep_stack(ids, visual)

    def _known(self, asked: _Asked, values: Tensor) -> AnsweredTokens:
        ids = asked.prompt.ids.tolist()
        answer = [token for token in ids[asked.prompt.answer_start :] if token not in self.tokenizer.stops]
        return AnsweredTokens(ids, LanguageStates(asked.read, values), self.tokenizer.decode_marked(answer))

    def _begin(self, asked: _Asked, values: Tensor, on_text: OnText | None = None) -> GeneratedAnswer:
        instruction, prompt = asked.instruction, asked.prompt
        text = GrowingText(self.tokenizer, instruction.stop, on_text)
        limit = asked.tokens_at_most(self.context) - len(asked.keys)
        return GeneratedAnswer(self.tokenizer, prompt, LanguageStates(asked.read, values), text, limit)

    def _read(self, asked: _Asked, said: AnsweredTokens) -> Answer:
        instruction, linked = asked.instruction, link(said.text)
        require_finite("the language model", said.states.values)
        if not instruction.row.draws_masks:
            return Answer(instruction, Conditions(), linked, None, asked.region_masks)
        embeddings = self.encoder.read(said.ids, said.states, asked.prompt.answer_start, self.tokenizer)
        if embeddings is None:
            raise NoMasksError(spell(said.text))
        ours = instruction.answer is None and not asked.generate
        return Answer(
            instruction,
            instruction.conditions(linked),
            LinkedText("", ()) if ours else linked,
            embeddings,
            asked.region_masks,
        )


def _groups(sizes: Sequence[int], limit: int) -> Iterator[slice]:
    """Consecutive items whose sizes add up to at most `limit`; a larger one is alone."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            yield slice(start, index)
            start, total = index, 0
        total += size
    if sizes:
        yield slice(start, len(sizes))
