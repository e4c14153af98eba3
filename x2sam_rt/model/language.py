"""The language model: prefill, branches and greedy decoding on a cache of fixed size, with the states X2SAM reads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_rt.errors import ConfigError
from x2sam_rt.model.key_value_cache import Branches, KeyValueCache, Place, additive

# Tokens of one pass through the layers: what a prompt takes beside the cache is bounded by it.
CHUNK = 512

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
Between = Callable[[], None]  # called between two pieces of work; may wait, or raise to end it


@dataclass(frozen=True, eq=False)
class DeepStack:
    """Features of the visual tower's inner levels, which join the first decoder layers' outputs.

    features: (levels, visual tokens, dim). positions: (visual tokens,) int64, ascending: where these tokens stand.
    """

    features: Tensor
    positions: Tensor

    def part(self, start: int, stop: int) -> DeepStack:
        """What falls on the tokens start…stop, counted from `start`; its positions are where the features are."""
        first, last = torch.searchsorted(self.positions, self.positions.new_tensor([start, stop])).tolist()
        positions = (self.positions[first:last] - start).to(self.features.device)
        return DeepStack(self.features[:, first:last], positions)

    def join(self, layer: int, hidden: Tensor) -> Tensor:
        """hidden: (B, tokens, dim), the layer's output; positions count over the whole batch."""
        if layer >= len(self.features) or not len(self.positions):
            return hidden
        flat = hidden.flatten(0, 1)
        joined = flat[self.positions] + self.features[layer].to(hidden.dtype)
        return flat.index_put((self.positions,), joined).view_as(hidden)


class LanguageModel:
    """Qwen3-VL's text model, run the way X2SAM was trained: its weights, in a loop over its layers that is ours.

    It differs from stock Qwen3-VL in two ways: every token has a plain position 0, 1, 2, … (text and visual alike),
    and the state that is read is the last layer's output *before* the final norm (token logits do use the norm).

    Holds weights and nothing else; any number of threads may use it, each with a cache of its own.
    """

    def __init__(self, vlm: Any, chunk: int = CHUNK) -> None:
        """chunk: tokens of one pass through the layers; the states do not depend on it, but for rounding.

        Raises ConfigError for rotary positions that would change with the length of the sequence.
        """
        config = vlm.config.text_config
        self.text, self.head = vlm.model.language_model, vlm.lm_head
        self.embeddings = self.text.embed_tokens
        self.max_context = int(config.max_position_embeddings)
        self.chunk = chunk
        self.dim = int(config.hidden_size)
        self._heads, self._head_dim = int(config.num_key_value_heads), int(config.head_dim)
        rotary = self.text.rotary_emb.rope_type
        if rotary != "default":
            raise ConfigError(f"The language model's rope_type is {rotary!r}; X2SAM is defined for 'default' only.")

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values of all layers."""
        return 2 * len(self.text.layers) * self._heads * self._head_dim * int(self.embeddings.weight.element_size())

    def new_cache(self, context: int) -> KeyValueCache:
        """Room for `context` tokens. Raises ConfigError when the model was not made for as many."""
        if type(context) is not int or not 1 <= context <= self.max_context:
            raise ConfigError(f"The context is {context!r} tokens; this model takes 1 to {self.max_context}.")
        weight = self.embeddings.weight
        return KeyValueCache(len(self.text.layers), self._heads, context, self._head_dim, weight.dtype, weight.device)

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids: (tokens,) int64. Returns (tokens, dim)."""
        out: Tensor = self.embeddings(token_ids)
        return out

    @torch.inference_mode()
    def prefill(
        self,
        cache: KeyValueCache,
        embeds: Tensor,
        deepstack: DeepStack | None = None,
        keep: Tensor | None = None,
        between: Between | None = None,
    ) -> Tensor:
        """Appends tokens to the cache's sequence, a chunk at a time.

        embeds: (tokens, dim), visual tokens already in place. deepstack: its positions, like those of `keep`, count
        from the first of these tokens. keep: (kept,) int64, which states are wanted; None = all. between: called
        in every layer of a chunk; chunks that are done stay in the sequence when it raises.

        Returns the states, (kept, dim). Raises PromptError when the cache has no room for the tokens.
        """
        cache.check_room(cache.length + len(embeds))
        keep = torch.arange(len(embeds)) if keep is None else keep

        def append(start: int, stop: int) -> Tensor:
            place = cache.next_place(stop - start)
            states = self._run(cache, embeds[start:stop], place, deepstack and deepstack.part(start, stop), between)
            cache.length += stop - start
            return states

        return self._by_chunks(embeds, keep, append)

    @torch.inference_mode()
    def prefill_branches(
        self, branches: Branches, embeds: Sequence[Tensor], keep: Sequence[Tensor], between: Between | None = None
    ) -> list[Tensor]:
        """The states of tokens that are appended to every branch, each as if it were the only one.

        embeds: (tokens, dim) for each branch. keep: (kept,) int64 for each. between: as for `prefill`.
        Returns (kept, dim) of each. Raises PromptError when the cache has no room.
        """
        sizes = [len(own) for own in embeds]
        owners = [branch for branch, size in enumerate(sizes) for _ in range(size)]
        together, starts = torch.cat(tuple(embeds)), itertools.accumulate(sizes, initial=0)
        wanted = torch.cat([start + own for start, own in zip(starts, keep, strict=False)])

        def append(start: int, stop: int) -> Tensor:
            place = branches.next_place(owners[start:stop])
            return self._run(branches.cache, together[start:stop], place, None, between)

        return list(torch.split(self._by_chunks(together, wanted, append), [len(own) for own in keep]))

    @torch.inference_mode()
    def decode_branches(self, branches: Branches, owners: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Appends one token to each of the branches `owners`. Returns their states, (tokens, dim). Raises PromptError
        when the cache has no room."""
        ids = torch.tensor(tokens, device=branches.cache.device)
        return self._run(branches.cache, self.embed(ids), branches.next_place(owners))

    def decode_step(self, cache: KeyValueCache, token: Tensor, position: Tensor, read: int) -> Tensor:
        """One token, with shapes that hold for `read` tokens and nothing looked up on the host.

        token, position: (1,) int64. read: rows of the cache that are attended to. Returns the state, (1, dim).
        """
        hidden = torch.arange(read, device=position.device) > position[:, None]
        return self._run(cache, self.embed(token), Place(position, position, additive(hidden, cache.dtype)))

    def next_tokens(self, states: Tensor) -> Tensor:
        """Greedy choice from states (…, dim): (…,) int64; -1 where a logit is NaN or infinite. The host need not wait
        to learn it."""
        logits = self.logits(states)
        best = logits.argmax(-1, keepdim=True)  # NaN is the largest of all
        return torch.where(logits.gather(-1, best).isfinite(), best, -1)[..., 0]

    def logits(self, states: Tensor) -> Tensor:
        """(…, dim) → (…, V): of the next token; the final norm is in."""
        out: Tensor = self.head(self.text.norm(states))
        return out

    def states(self, embeds: Tensor, visual_places: Tensor | None = None, deepstack: Tensor | None = None) -> Tensor:
        """The last layer's output before the final norm, (B, tokens, dim), without a cache and with gradients.

        embeds: (B, tokens, dim); as every token sees only those before it, shorter sequences may be padded at their
        end. visual_places: (B, tokens) bool. deepstack: (levels, all visual tokens of the batch, dim).
        """
        joined = None
        if deepstack is not None and visual_places is not None:
            joined = DeepStack(deepstack, visual_places.flatten().nonzero()[:, 0])

        def attend(_layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

        return self._layers(embeds, torch.arange(embeds.shape[1], device=embeds.device), joined, attend)

    def _by_chunks(self, embeds: Tensor, keep: Tensor, append: Callable[[int, int], Tensor]) -> Tensor:
        """append: the states of the tokens start…stop. Returns those of `keep`, (kept, dim)."""
        kept = embeds.new_empty(len(keep), embeds.shape[1])
        for start in range(0, len(embeds), self.chunk):
            stop = min(start + self.chunk, len(embeds))
            states = append(start, stop)
            inside = (keep >= start) & (keep < stop)
            kept[inside] = states[keep[inside] - start]
        return kept

    def _run(
        self,
        cache: KeyValueCache,
        embeds: Tensor,
        place: Place,
        deepstack: DeepStack | None = None,
        between: Between | None = None,
    ) -> Tensor:
        """embeds: (T, dim). Returns the states, (T, dim)."""

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if between is not None:
                between()
            keys, values = cache.keys[layer], cache.values[layer]
            keys.index_copy_(1, place.rows, key[0])
            values.index_copy_(1, place.rows, value[0])
            return _grouped_attention(query, keys[:, : place.read], values[:, : place.read], place.mask)

        return self._layers(embeds[None], place.positions, deepstack, attend)[0]

    def _layers(self, hidden: Tensor, positions: Tensor, deepstack: DeepStack | None, attend: Attend) -> Tensor:
        """hidden: (B, tokens, dim). positions: (tokens,). attend: (layer, query, key, value) → as query."""
        cos, sin = self._rotary(positions, hidden.dtype)
        for index, layer in enumerate(self.text.layers):
            attention = layer.self_attn
            query, key, value = self._project(attention, layer.input_layernorm(hidden))
            attended = attend(index, _rotate(query, cos, sin), _rotate(key, cos, sin), value)
            hidden = hidden + attention.o_proj(attended.transpose(1, 2).flatten(2))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            if deepstack is not None:
                hidden = deepstack.join(index, hidden)
        return hidden

    def _project(self, attention: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, heads, tokens, head dim) each; query and key normalised per head."""
        heads = (*normed.shape[:2], -1, self._head_dim)
        query = attention.q_norm(attention.q_proj(normed).view(heads))
        key = attention.k_norm(attention.k_proj(normed).view(heads))
        value = attention.v_proj(normed).view(heads)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def _rotary(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(tokens, head dim) each. With one number for all three axes, Qwen3-VL's interleaved axes are one."""
        angles = (positions[:, None].float() * self.text.rotary_emb.inv_freq.float()).repeat(1, 2)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _grouped_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """query: (1, heads, T, dim). keys, values: (key heads, read, dim). mask: (T, read), added to the scores.

    The query heads that share a key head become a batch (or, for one token, its rows): no kernel need know of groups,
    and none copies the keys.
    """
    heads, tokens, dim = query.shape[1:]
    if tokens == 1:
        rows = query.view(1, len(keys), -1, dim)
        return F.scaled_dot_product_attention(rows, keys[None], values[None], mask).view(query.shape)
    grouped = query.view(len(keys), -1, tokens, dim).transpose(0, 1)
    shape = (len(grouped), *keys.shape)
    attended = F.scaled_dot_product_attention(grouped, keys.expand(shape), values.expand(shape), mask)
    return attended.transpose(0, 1).reshape(1, heads, tokens, dim)
