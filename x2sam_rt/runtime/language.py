"""The language runtime: an instruction and some frames become the answer that frames are segmented by."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import NoMasksError, SessionError
from x2sam_rt.model.language import DeepStack
from x2sam_rt.model.preprocess import (
    region_input,
    segmentor_input,
    tokens_per_pair,
    vision_patches,
    vision_size,
)
from x2sam_rt.model.prompt_encoder import (
    VISUAL_PLACE,
    LanguageStates,
    PromptEmbeddings,
    PromptEncoder,
    PromptTokens,
    VisualTokens,
    deep_stack,
    prompt_tokens,
    read_positions,
)
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.runtime.growing_text import GrowingText, OnText
from x2sam_rt.runtime.prompt_cache import FramePair, Prefix, SeenPairs, frame_pairs, shared_length, token_keys
from x2sam_rt.runtime.prompt_frames import PAIRS_AT_ONCE, PromptFrames
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.marks import LinkedText, MarkedText, link, shortened, spell
from x2sam_rt.tasks.regions import RegionPrompt
from x2sam_rt.tasks.table import Conditions, Media
from x2sam_rt.tasks.wording import Wording

RegionSource = Callable[[Tensor], Tensor]  # (1, 3, S, S) → (1, S/16, S/16, C): what the mask encoder sees of a frame

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


@dataclass(frozen=True, eq=False)
class _Shown:
    """The frames a prompt begins with. target: (height, width) they are resized to."""

    pairs: list[FramePair]
    target: tuple[int, int]

    @property
    def tokens_per_pair(self) -> int:
        return tokens_per_pair(self.target)


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


@dataclass(frozen=True, eq=False)
class _Said:
    """An answered sequence. ids: with the answer's. text: the answer, as far as it counts."""

    ids: list[int]
    states: LanguageStates
    text: MarkedText


def default_context(config: ModelConfig) -> int:
    """Tokens that the longest prompt of the published protocols needs (the largest image, or 64 frames of a chat, and
    an answer of full length); no more than the model was made for."""
    image = config.image_budget.max_pixels // _pixels_per_token()
    video = config.video_budget.max_pixels // (2 * _pixels_per_token())  # a pair of frames shares its tokens
    return min(max(image, video) + _WORDS, int(config.language["text_config"]["max_position_embeddings"]))


def _pixels_per_token() -> int:
    side = 1024
    return side**2 // tokens_per_pair((side, side))


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
    ) -> None:
        """context: tokens of the longest prompt, its answer included; None = `default_context`.

        Raises ConfigError for a context the model was not made for.
        """
        self.encoder, self.tokenizer = encoder, tokenizer
        self._region_source, self._config, self._wording = region_source, config, wording
        cache = encoder.language.new_cache(default_context(config) if context is None else context)
        self._prefix, self._seen = Prefix(cache), SeenPairs(cache.context)
        self._turn, self._answering = threading.RLock(), False

    @property
    def context(self) -> int:
        """Tokens of the longest prompt, its answer included."""
        return self._prefix.cache.context

    @property
    def cache_bytes(self) -> int:
        """Of the key-value cache: what the language side takes beside its weights, whatever is asked."""
        return self._prefix.cache.nbytes

    @property
    def largest_seen_bytes(self) -> int:
        """Of the visual tokens that are kept, when as many as the context holds have been seen."""
        config = self._config.language["vision_config"]
        levels = 1 + len(config["deepstack_visual_indexes"])
        return self.context * levels * self._config.language_dim * self.encoder.dtype.itemsize

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
        abandoned: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """A known answer costs one prefill and no decoding; of a generated one `on_text` gets the text as it grows.
        abandoned: asked now and then whether the answer is still wanted; if not, SessionError ends the work.

        Raises PromptError for what cannot be asked on these frames or does not fit into the context, NoMasksError
        (with the text) when the model answers without masks, SessionError when called from `on_text`.
        """

        def wanted(text: str = "") -> None:
            if abandoned():
                raise SessionError("The instruction was given up for a later one.")
            if on_text is not None and text:
                on_text(text)

        with self._one_at_a_time(), torch.inference_mode():
            wanted()
            shown = self._show(frames, media)
            asked = self._ask(instruction, media, frames, shown)
            return self._read(asked, self._run(asked, shown, wanted))

    def answer_all(self, instructions: Sequence[Instruction], media: Media, frames: PromptFrames) -> list[Answer]:
        """Several instructions on the same frames, each as if asked alone. Those whose answers are known beforehand go
        through the language model together, behind one copy of the frames; the others follow one by one.

        Raises as `answer`, and then answers none.
        """
        with self._one_at_a_time(), torch.inference_mode():
            shown = self._show(frames, media)
            asked = [self._ask(instruction, media, frames, shown) for instruction in instructions]
            known = iter(self._run_together([one for one in asked if not one.generate], shown))
            return [self._read(one, self._run(one, shown) if one.generate else next(known)) for one in asked]

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        with self._turn:
            if self._answering:
                raise SessionError("An instruction was asked from within on_text; ask when the answer is complete.")
            self._answering = True
            try:
                yield
            finally:
                self._answering = False

    def _show(self, frames: PromptFrames, media: Media) -> _Shown:
        video = media == "video"
        budget = self._config.video_budget if video else self._config.image_budget
        height, width = frames.frames[0].shape[:2]
        target = vision_size(height, width, len(frames.frames) if video else 1, budget)
        return _Shown(frame_pairs(frames.frames, target, frames.pixel_digests()), target)

    def _ask(self, instruction: Instruction, media: Media, frames: PromptFrames, shown: _Shown) -> _Asked:
        question = instruction.question_text(media, self._wording)
        answer = instruction.answer_text(self._wording)
        prompt = prompt_tokens(self.tokenizer, media, len(shown.pairs), shown.tokens_per_pair, question, answer)
        ids = prompt.ids.tolist()
        self._prefix.cache.check_room(len(ids))  # before anything costs time
        masks = self._region_masks(instruction, frames)
        return _Asked(
            instruction,
            prompt,
            token_keys(ids, shown.pairs, shown.tokens_per_pair),
            read_positions(ids, prompt.answer_start, self.tokenizer),
            self._look_at_regions(instruction, frames, masks),
            masks,
            generate=answer is None,
        )

    def _region_masks(self, instruction: Instruction, frames: PromptFrames) -> Tensor | None:
        config = self._config
        masks = [
            region_input(region.mask(*frames.frame_of(region).shape[:2]), config.image_size, config.resize)
            for region in instruction.regions
        ]
        return torch.stack(masks).to(self.encoder.device) if masks else None

    def _look_at_regions(self, instruction: Instruction, frames: PromptFrames, masks: Tensor | None) -> Tensor | None:
        """(regions, 64, dim), each read from the features of the frame it was drawn on."""
        if masks is None:
            return None
        looked = zip(self._sources(instruction.regions, frames), masks, strict=True)
        return torch.cat([self.encoder.look_at_regions(source, mask[None]) for source, mask in looked])

    def _sources(self, regions: tuple[RegionPrompt, ...], frames: PromptFrames) -> Iterator[Tensor]:
        """The source of each region's frame; several regions of one frame share it."""
        config, known = self._config, dict[int, Tensor]()
        for region in regions:
            if region.frame not in known:
                frame = frames.frame_of(region).to(self.encoder.device)
                seen = segmentor_input(frame, config.image_size, config.resize)
                known[region.frame] = self._region_source(seen.pixels)
            yield known[region.frame]

    def _run(self, asked: _Asked, shown: _Shown, on_text: OnText | None = None) -> _Said:
        start = self._prefix.share(asked.keys, asked.reusable)
        embeds, deepstack = self._feed(asked, shown, start, len(asked.keys))
        language, cache = self.encoder.language, self._prefix.cache
        values = language.prefill(cache, embeds, deepstack, asked.read - start)
        states = LanguageStates(asked.read, values)
        return self._generate(asked, states, on_text) if asked.generate else self._known(asked, states)

    def _run_together(self, asked: Sequence[_Asked], shown: _Shown) -> list[_Said]:
        """The prompts' common beginning once, the rest of each as a branch of it."""
        if not asked:
            return []
        base = min(one.reusable for one in asked)
        for other in asked[1:]:
            base = shared_length(asked[0].keys[:base], other.keys)
        language, cache = self.encoder.language, self._prefix.cache
        start = self._prefix.share(asked[0].keys[:base], base)
        language.prefill(cache, *self._feed(asked[0], shown, start, base), keep=torch.arange(0))
        branches = [self._feed(one, shown, base, len(one.keys))[0] for one in asked]
        states = language.prefill_branches(cache, branches, [one.read - base for one in asked])
        return [self._known(one, LanguageStates(one.read, values)) for one, values in zip(asked, states, strict=True)]

    def _feed(self, asked: _Asked, shown: _Shown, start: int, stop: int) -> tuple[Tensor, DeepStack | None]:
        """The tokens start…stop as the language model takes them; the frames among them are looked at."""
        ids = asked.prompt.ids[start:stop]
        count = int((ids == VISUAL_PLACE).sum())
        visual = self._see(shown, count) if count else None
        regions = asked.regions if stop == len(asked.keys) else None
        embeds = self.encoder.embed(ids.to(self.encoder.device), visual, regions)
        return embeds, None if visual is None else deep_stack(ids, visual)

    def _see(self, shown: _Shown, count: int) -> VisualTokens:
        """The last `count` visual tokens of the frames."""
        needed = -(-count // shown.tokens_per_pair)
        return self._seen.get(shown.pairs[-needed:], lambda pairs: self._run_tower(pairs, shown.target)).last(count)

    def _run_tower(self, pairs: Sequence[FramePair], target: tuple[int, int]) -> VisualTokens:
        parts = []
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            frames = [frame for pair in pairs[start : start + PAIRS_AT_ONCE] for frame in pair.frames]
            shown = [frame.to(self.encoder.device) for frame in frames]
            parts.append(self.encoder.see(vision_patches(shown, target)))
        return VisualTokens(
            torch.cat([part.tokens for part in parts]), torch.cat([part.deepstack for part in parts], dim=1)
        )

    def _known(self, asked: _Asked, states: LanguageStates) -> _Said:
        ids = asked.prompt.ids.tolist()
        return _Said(ids, states, self._text(ids[asked.prompt.answer_start :]))

    def _generate(self, asked: _Asked, states: LanguageStates, on_text: OnText | None) -> _Said:
        language, cache, instruction = self.encoder.language, self._prefix.cache, asked.instruction
        text, end = GrowingText(self.tokenizer, instruction.stop, on_text), None
        start, ids, values = asked.prompt.answer_start, asked.prompt.ids.tolist(), [states.values]
        stops = self.tokenizer.stops.__contains__
        for token, state in language.generate(cache, states.values[-1], stops, instruction.max_new_tokens):
            ids.append(token)
            if state is not None:
                values.append(state[None])
            end = None if stops(token) else text.add(token)
            if end is not None:
                break
        else:
            text.finish()
        fed = torch.arange(start, start + len(values) - 1, device="cpu")
        read = LanguageStates(torch.cat((states.positions, fed)), torch.cat(values))
        return _Said(ids, read, self._text(ids[start:])) if end is None else self._ended(ids, read, start, end)

    def _ended(self, ids: list[int], states: LanguageStates, answer_start: int, end: int) -> _Said:
        """An answer that counts up to a stop text, which begins after `end` characters."""
        text = self._text(ids[answer_start:])
        while len(spell(self._text(ids[answer_start:]))) > end:
            ids = ids[:-1]
        return _Said(ids, states, shortened(text, end))

    def _text(self, answer: Sequence[int]) -> MarkedText:
        return self.tokenizer.decode_marked([token for token in answer if token not in self.tokenizer.stops])

    def _read(self, asked: _Asked, said: _Said) -> Answer:
        instruction, linked = asked.instruction, link(said.text)
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
