"""The language model: prefill and greedy decoding, with the states X2SAM reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from x2sam_rt.errors import PromptError
from x2sam_rt.tasks.instruction import MAX_NEW_TOKENS


@dataclass(frozen=True, eq=False)
class VisualInput:
    """Visual tokens and where they stand in the sequence.

    tokens: (visual tokens, dim). deepstack: (levels, visual tokens, dim). positions: (visual tokens,) int64.
    """

    tokens: Tensor
    deepstack: Tensor
    positions: Tensor


class LanguageModel:
    """Qwen3-VL's text model, run the way X2SAM was trained.

    It differs from stock Qwen3-VL in two ways: every token has a plain position 0, 1, 2, … (text and visual alike),
    and the state that is read is the last layer's output *before* the final norm (token logits do use the norm).
    """

    def __init__(self, vlm: Any) -> None:
        self.text = vlm.model.language_model
        self.head = vlm.lm_head
        self.embeddings = self.text.embed_tokens
        config = vlm.config.text_config
        self.context = int(config.max_position_embeddings)

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids: (tokens,) int64. Returns (tokens, dim)."""
        out: Tensor = self.embeddings(token_ids)
        return out

    @torch.inference_mode()
    def prefill(self, embeds: Tensor, visual: VisualInput | None = None) -> tuple[Tensor, DynamicCache]:
        """embeds: (tokens, dim), visual tokens already in place. Returns states (tokens, dim) and the cache.

        Raises PromptError when the sequence is longer than the model's context.
        """
        if len(embeds) > self.context:
            raise PromptError(
                f"The prompt is {len(embeds)} tokens long; the language model holds {self.context}. "
                "Ask with fewer frames, regions or words."
            )
        cache = DynamicCache()
        return self._run(embeds, cache, visual), cache

    def logits(self, states: Tensor) -> Tensor:
        """(…, dim) → (…, V): of the next token; the final norm is in."""
        out: Tensor = self.head(self.text.norm(states))
        return out

    @torch.inference_mode()
    def next_token(self, state: Tensor) -> int:
        """Greedy choice from one state (dim,)."""
        return int(self.logits(state).argmax())

    @torch.inference_mode()
    def generate(
        self,
        prompt_states: Tensor,
        cache: DynamicCache,
        stop: Callable[[int], bool],
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Iterator[tuple[int, Tensor | None]]:
        """Greedy decoding after `prefill`. Yields (token id, state of that token); the last token's state is None,
        because it is never fed. Ends with a stop token, after max_new_tokens, or where the context is full.
        """
        state = prompt_states[-1]
        room = min(max_new_tokens, self.context - cache.get_seq_length())
        for step in range(room):
            token = self.next_token(state)
            if stop(token) or step == room - 1:
                yield token, None
                return
            state = self.feed(token, cache)
            yield token, state

    @torch.inference_mode()
    def feed(self, token: int, cache: DynamicCache) -> Tensor:
        """Appends one token to the sequence. Returns its state (dim,)."""
        token_ids = torch.tensor([token], device=self.embeddings.weight.device)
        return self._run(self.embed(token_ids), cache)[0]

    def _run(self, embeds: Tensor, cache: DynamicCache, visual: VisualInput | None = None) -> Tensor:
        places = None if visual is None else _mask(visual.positions, len(embeds))[None]
        deepstack = None if visual is None else visual.deepstack
        return self.states(embeds[None], places, deepstack, cache)[0]

    def states(
        self,
        embeds: Tensor,
        visual_places: Tensor | None = None,
        deepstack: Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """The last layer's output before the final norm, (B, tokens, dim), with gradients where they are wanted.

        embeds: (B, tokens, dim); as every token sees only those before it, shorter sequences may be padded at their
        end. visual_places: (B, tokens) bool. deepstack: (levels, all visual tokens of the batch, dim). cache: tokens
        before these; these are appended.
        """
        start = 0 if cache is None else cache.get_seq_length()
        positions = torch.arange(start, start + embeds.shape[1], device=embeds.device).expand(3, len(embeds), -1)
        with _InputOf(self.text.norm) as before_norm:
            self.text(
                inputs_embeds=embeds,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                visual_pos_masks=visual_places,
                deepstack_visual_embeds=None if deepstack is None else list(deepstack),
            )
        return before_norm.value


def _mask(positions: Tensor, length: int) -> Tensor:
    mask = torch.zeros(length, dtype=torch.bool, device=positions.device)
    mask[positions] = True
    return mask


class _InputOf:
    """Keeps the first argument of a module's next call: transformers returns the states only after the norm."""

    value: Tensor

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> _InputOf:
        self._hook = self._module.register_forward_pre_hook(self._keep)
        return self

    def _keep(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.value = args[0]

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
