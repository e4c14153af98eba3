"""The language side: an instruction and some frames become the embeddings that frames are segmented by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from x2sam_rt.model.conditions import PromptEmbeddings, prompt_embeddings
from x2sam_rt.model.language import MAX_NEW_TOKENS, LanguageModel, VisualInput
from x2sam_rt.model.preprocess import VisionInput
from x2sam_rt.model.region_sampler import region_map, region_tokens
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.vision_encoder import patch_grid
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.engines.engine import Engine
from x2sam_rt.runtime.prompt_tokens import (
    REGION_PLACE,
    VISUAL_PLACE,
    PromptTokens,
    check_regions,
    phrase_spans,
    prompt_tokens,
    seg_position,
)
from x2sam_rt.tasks.task import Media

OnText = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Reply:
    """text: the answer with its marks, without the end token. embeddings: None where the answer has no `<SEG>`, or
    nothing names a condition; then no masks can be drawn."""

    text: str
    embeddings: PromptEmbeddings | None


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """tokens: (pairs, tokens per pair, dim). deepstack: (levels, pairs, tokens per pair, dim)."""

    tokens: Tensor
    deepstack: Tensor


class LanguageSide:
    """Holds the language model and the projectors; the visual tower is an engine. Runs when a prompt arrives."""

    def __init__(self, model: X2SAM, vision_encoder: Engine, tokenizer: Tokenizer) -> None:
        self.language = LanguageModel(model.vlm)
        self.tokenizer = tokenizer
        self._model = model
        self._vision_encoder = vision_encoder

    @torch.inference_mode()
    def reply(
        self,
        media: Media,
        vision: VisionInput,
        question: str,
        answer: str | None,
        regions: Tensor,
        *,
        on_text: OnText | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Reply:
        """question: with `<p>…</p>` and `<region>`, without chat markup. answer: the known answer, which then costs one
        prefill and no decoding; None = generate, `on_text` gets the text as it grows. regions: (R, 64, dim).
        """
        check_regions(question, len(regions))
        visual = self.see(vision)
        pairs, tokens_per_pair, _ = visual.tokens.shape
        prompt = prompt_tokens(self.tokenizer, media, pairs, tokens_per_pair, question, answer)
        states, cache = self.language.prefill(self.embed(prompt, visual, regions), place(prompt, visual))
        if answer is not None:
            return self.read(prompt.ids.tolist(), states, prompt.answer_start)
        ids, grown = prompt.ids.tolist(), [states]
        written = ""
        for token, state in self.language.generate(states, cache, self.tokenizer.stops.__contains__, max_new_tokens):
            ids.append(token)
            if state is not None:
                grown.append(state[None])
            if on_text is not None and token not in self.tokenizer.stops:
                written = self._announce(ids[prompt.answer_start :], written, on_text)
        return self.read(ids, torch.cat(grown), prompt.answer_start)

    def _announce(self, answer: list[int], written: str, on_text: OnText) -> str:
        """Hands on the text that the newest token added. A token may end within a character, so text is compared."""
        text = self.tokenizer.decode(answer)
        if not text.endswith("\ufffd"):
            on_text(text[len(written) :])
            return text
        return written

    def see(self, vision: VisionInput) -> VisualTokens:
        """Runs the visual tower."""
        config = self._model.config.language["vision_config"]
        merge = config["spatial_merge_size"]
        grid = patch_grid(
            vision.height,
            vision.width,
            merge=merge,
            table_side=int(config["num_position_embeddings"] ** 0.5),
            head_dim=config["hidden_size"] // config["num_heads"],
        )
        pairs, patches, _ = vision.patches.shape
        levels, dim = len(config["deepstack_visual_indexes"]), self._model.config.language_dim
        pixels = vision.patches.to(self._dtype).contiguous()
        tokens = pixels.new_empty(pairs, patches // merge**2, dim)
        deepstack = pixels.new_empty(levels, pairs, patches // merge**2, dim)
        self._vision_encoder.run(
            {
                "patches": pixels,
                "indices": grid.indices,
                "weights": grid.weights,
                "cos": grid.cos,
                "sin": grid.sin,
            },
            {"vision_tokens": tokens, "deepstack": deepstack},
        )
        return VisualTokens(tokens, deepstack)

    @torch.inference_mode()
    def look_at_regions(self, region_source: Tensor, masks: Tensor) -> Tensor:
        """region_source: (1, S/16, S/16, C) of the prompted frame. masks: (R, S, S). Returns (R, 64, dim)."""
        return region_tokens(region_map(region_source, self._model.extra_projector), masks)

    @property
    def _dtype(self) -> torch.dtype:
        dtype = self.language.embeddings.weight.dtype
        assert isinstance(dtype, torch.dtype)
        return dtype

    def embed(self, prompt: PromptTokens, visual: VisualTokens, regions: Tensor) -> Tensor:
        """(tokens, dim): word embeddings with the visual and region tokens in their places."""
        embeds = self.language.embed(prompt.ids.clamp_min(0)).clone()
        embeds[prompt.places(VISUAL_PLACE)] = visual.tokens.flatten(0, 1)
        if len(regions):
            embeds[prompt.places(REGION_PLACE)] = regions.flatten(0, 1)
        return embeds

    def read(self, ids: list[int], states: Tensor, answer_start: int) -> Reply:
        """From token ids and their states (the last generated one has none) to the embeddings."""
        answer = [token for token in ids[answer_start:] if token not in self.tokenizer.stops]
        text = self.tokenizer.decode(answer)
        known = ids[: len(states)]
        seg = seg_position(known[answer_start:], self.tokenizer)
        # Phrases of the answer replace those of the question.
        spans = [slice(s.start + answer_start, s.stop + answer_start) for s in self._spans(known[answer_start:])]
        spans = spans or self._spans(known[:answer_start])
        if seg is None or not spans:
            return Reply(text, None)
        project = self._model.mlm_projector
        embeddings = prompt_embeddings(
            project(states[answer_start + seg]),
            [project(states[span]) for span in spans],
            self._model.bg_embeds.weight,
        )
        return Reply(text, embeddings)

    def _spans(self, ids: list[int]) -> list[slice]:
        return phrase_spans(ids, self.tokenizer)


def place(prompt: PromptTokens, visual: VisualTokens) -> VisualInput:
    """The visual tokens of a prompt, and where they stand."""
    return VisualInput(visual.tokens.flatten(0, 1), visual.deepstack.flatten(1, 2), prompt.places(VISUAL_PLACE))
