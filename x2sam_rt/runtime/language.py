"""The language runtime: an instruction and some frames become the answer that frames are segmented by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import NoMasksError
from x2sam_rt.model.preprocess import region_input, segmentor_input, vision_input
from x2sam_rt.model.prompt_encoder import (
    PromptEmbeddings,
    PromptEncoder,
    PromptTokens,
    VisualTokens,
    prompt_tokens,
    visual_input,
)
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.runtime.prompt_frames import PromptFrames
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.marks import LinkedText, MarkedText, link, spell
from x2sam_rt.tasks.regions import RegionPrompt
from x2sam_rt.tasks.table import Conditions, Media
from x2sam_rt.tasks.wording import Wording

OnText = Callable[[str], None]
RegionSource = Callable[[Tensor], Tensor]  # (1, 3, S, S) → (1, S/16, S/16, C): what the mask encoder sees of a frame


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
class _States:
    """A whole sequence: its ids, and the states of all of them but a last generated one."""

    ids: list[int]
    states: Tensor
    answer_start: int


class LanguageRuntime:
    """Answers instructions. Runs when one arrives, never per frame."""

    def __init__(
        self,
        encoder: PromptEncoder,
        region_source: RegionSource,
        tokenizer: Tokenizer,
        config: ModelConfig,
        wording: Wording,
    ) -> None:
        self.encoder, self.tokenizer = encoder, tokenizer
        self._region_source, self._config, self._wording = region_source, config, wording

    @torch.inference_mode()
    def answer(
        self,
        instruction: Instruction,
        media: Media,
        frames: PromptFrames,
        *,
        on_text: OnText | None = None,
    ) -> Answer:
        """A known answer costs one prefill and no decoding; of a generated one `on_text` gets the text as it grows.

        Raises PromptError for what cannot be asked on these frames, NoMasksError (with the text) when the model
        answers without masks.
        """
        question = instruction.question_text(media, self._wording)
        known = instruction.answer_text(self._wording)
        masks = self._region_masks(instruction, frames)
        visual = self._see(frames, media)
        regions = self._look_at_regions(instruction, frames, masks)
        prompt = prompt_tokens(self.tokenizer, media, *visual.grid, question, known)
        ran = self._run(prompt, visual, regions, instruction.max_new_tokens, generate=known is None, on_text=on_text)
        return self._read(instruction, ran, masks)

    def _region_masks(self, instruction: Instruction, frames: PromptFrames) -> Tensor | None:
        config = self._config
        masks = [
            region_input(region.mask(*frames.frame_of(region).shape[:2]), config.image_size, config.resize)
            for region in instruction.regions
        ]
        return torch.stack(masks) if masks else None

    def _see(self, frames: PromptFrames, media: Media) -> VisualTokens:
        budget = self._config.video_budget if media == "video" else self._config.image_budget
        return self.encoder.see(vision_input(frames.frames, budget, video=media == "video"))

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
                seen = segmentor_input(frames.frame_of(region), config.image_size, config.resize)
                known[region.frame] = self._region_source(seen.pixels)
            yield known[region.frame]

    def _run(
        self,
        prompt: PromptTokens,
        visual: VisualTokens,
        regions: Tensor | None,
        max_new_tokens: int,
        *,
        generate: bool,
        on_text: OnText | None,
    ) -> _States:
        language, ids = self.encoder.language, prompt.ids.tolist()
        embeds = self.encoder.embed(prompt.ids, visual, regions)
        states, cache = language.prefill(embeds, visual_input(prompt.ids, visual))
        if not generate:
            return _States(ids, states, prompt.answer_start)
        grown, written = [states], ""
        for token, state in language.generate(states, cache, self.tokenizer.stops.__contains__, max_new_tokens):
            ids.append(token)
            if state is not None:
                grown.append(state[None])
            if on_text is not None and token not in self.tokenizer.stops:
                written = self._announce(ids[prompt.answer_start :], written, on_text)
        return _States(ids, torch.cat(grown), prompt.answer_start)

    def _announce(self, answer: list[int], written: str, on_text: OnText) -> str:
        """Hands on the text that the newest token added. A token may end within a character, so text is compared."""
        text = spell(self.tokenizer.decode_marked(answer))
        if not text.endswith("\ufffd"):
            on_text(text[len(written) :])
            return text
        return written

    def _read(self, instruction: Instruction, ran: _States, masks: Tensor | None) -> Answer:
        said = self._said(ran)
        if not instruction.row.draws_masks:
            return Answer(instruction, Conditions(), link(said), None, masks)
        embeddings = self.encoder.read(ran.ids, ran.states, ran.answer_start, self.tokenizer)
        if embeddings is None:
            raise NoMasksError(spell(said))
        ours = instruction.answer is None and instruction.answer_text(self._wording) is not None
        linked = link(said)
        return Answer(
            instruction, instruction.conditions(linked), LinkedText("", ()) if ours else linked, embeddings, masks
        )

    def _said(self, ran: _States) -> MarkedText:
        answer = [token for token in ran.ids[ran.answer_start :] if token not in self.tokenizer.stops]
        return self.tokenizer.decode_marked(answer)
