"""The language model: prefill, branches and greedy decoding on a cache of fixed size, with the states X2SAM reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_rt.errors import ConfigError, PromptError
from x2sam_rt.tasks.instruction import MAX_NEW_TOKENS

# Tokens of one pass through the layers: what a prompt takes beside the cache is bounded by it.
CHUNK = 512
# A decoding step reads the cache up to a multiple of this, so that its shapes stay the same for as many tokens.
READ_STEP = 256

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


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


class KeyValueCache:
    """Keys and values of one token sequence, in memory that is taken here, once.

    context: tokens it holds. length: tokens in it. Belongs to one caller, who works on it with one call at a time.
    """

    def __init__(
        self, layers: int, heads: int, context: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.keys = torch.zeros(layers, heads, context, head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.context, self.length = context, 0

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    @property
    def room(self) -> int:
        """Tokens that may still be appended."""
        return self.context - self.length

    def check_room(self, length: int) -> None:
        """Raises PromptError when a sequence of `length` tokens does not fit."""
        if length > self.context:
            raise PromptError(
                f"The prompt reaches {length} tokens; the context holds {self.context}. "
                "Ask with fewer frames, regions or words, or load the bundle with a larger --context."
            )

    def rollback(self, length: int) -> None:
        """Forgets all but the first `length` tokens; what follows is computed as if nothing else had been there."""
        assert 0 <= length <= self.length, f"rollback to {length} of {self.length} tokens"
        self.length = length


@dataclass(frozen=True, eq=False)
class _Place:
    """Where tokens go: rows of the cache they are written to, (T,) int64; their positions, (T,) int64; the first `read`
    rows of the cache are attended to, as mask (T, read) says (0 = seen, −inf = hidden)."""

    rows: Tensor
    positions: Tensor
    mask: Tensor

    @property
    def read(self) -> int:
        return self.mask.shape[1]


class LanguageModel:
    """Qwen3-VL's text model, run the way X2SAM was trained: its weights, in a loop over its layers that is ours.

    It differs from stock Qwen3-VL in two ways: every token has a plain position 0, 1, 2, … (text and visual alike),
    and the state that is read is the last layer's output *before* the final norm (token logits do use the norm).

    Holds weights and nothing else; any number of threads may use it, each with a cache of its own.
    """

    def __init__(self, vlm: Any, chunk: int = CHUNK) -> None:
        """chunk: tokens of one pass through the layers; the states do not depend on it.

        Raises ConfigError for rotary positions that would change with the length of the sequence.
        """
        config = vlm.config.text_config
        self.text, self.head = vlm.model.language_model, vlm.lm_head
        self.embeddings = self.text.embed_tokens
        self.max_context = int(config.max_position_embeddings)
        self.chunk = chunk
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
        if not 1 <= context <= self.max_context:
            raise ConfigError(f"The context is {context} tokens; this model takes 1 to {self.max_context}.")
        weight = self.embeddings.weight
        return KeyValueCache(len(self.text.layers), self._heads, context, self._head_dim, weight.dtype, weight.device)

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids: (tokens,) int64. Returns (tokens, dim)."""
        out: Tensor = self.embeddings(token_ids)
        return out

    @torch.inference_mode()
    def prefill(
        self, cache: KeyValueCache, embeds: Tensor, deepstack: DeepStack | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """Appends tokens to the cache's sequence, a chunk at a time.

        embeds: (tokens, dim), visual tokens already in place. deepstack: its positions, like those of `keep`, count
        from the first of these tokens. keep: (kept,) int64, which states are wanted; None = all.

        Returns the states, (kept, dim). Raises PromptError when the cache has no room for the tokens.
        """
        cache.check_room(cache.length + len(embeds))
        keep = torch.arange(len(embeds)) if keep is None else keep
        kept = embeds.new_empty(len(keep), embeds.shape[1])
        for start in range(0, len(embeds), self.chunk):
            stop = min(start + self.chunk, len(embeds))
            states = self._append(cache, embeds[start:stop], deepstack and deepstack.part(start, stop))
            inside = (keep >= start) & (keep < stop)
            kept[inside] = states[keep[inside] - start]
        return kept

    @torch.inference_mode()
    def prefill_branches(
        self, cache: KeyValueCache, branches: Sequence[Tensor], keep: Sequence[Tensor]
    ) -> list[Tensor]:
        """The states of several continuations of the cache's sequence, each as if it were the only one.

        branches: (tokens, dim) each. keep: (kept,) int64 for each. They go through the layers together, as many as a
        chunk holds; the cache's sequence is afterwards what it was. Returns (kept, dim) of each.
        Raises PromptError when the cache has no room.
        """
        states: list[Tensor] = []
        for group in _groups([len(branch) for branch in branches], min(self.chunk, cache.room)):
            states += self._branches(cache, branches[group], keep[group])
        return states

    @torch.inference_mode()
    def decode(self, cache: KeyValueCache, token: int) -> Tensor:
        """Appends one token to the sequence. Returns its state, (dim,). Raises PromptError when the cache is full."""
        cache.check_room(cache.length + 1)
        device = self.embeddings.weight.device
        read = min(cache.context, -(-(cache.length + 1) // READ_STEP) * READ_STEP)
        state = self.decode_step(
            cache, torch.tensor([token], device=device), torch.tensor([cache.length], device=device), read
        )
        cache.length += 1
        return state[0]

    def decode_step(self, cache: KeyValueCache, token: Tensor, position: Tensor, read: int) -> Tensor:
        """One token, with shapes that hold for `read` tokens and nothing looked up on the host.

        token, position: (1,) int64. read: rows of the cache that are attended to. Returns the state, (1, dim).
        """
        hidden_rows = torch.arange(read, device=position.device) > position[:, None]
        place = _Place(position, position, _additive(hidden_rows, cache.keys.dtype))
        return self._run(cache, self.embed(token), place)

    def logits(self, states: Tensor) -> Tensor:
        """(…, dim) → (…, V): of the next token; the final norm is in."""
        out: Tensor = self.head(self.text.norm(states))
        return out

    @torch.inference_mode()
    def next_token(self, state: Tensor) -> int:
        """Greedy choice from one state (dim,)."""
        return int(self.logits(state).argmax())

    def generate(
        self,
        cache: KeyValueCache,
        state: Tensor,
        stop: Callable[[int], bool],
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Iterator[tuple[int, Tensor | None]]:
        """Greedy decoding after a prefill. state: (dim,) of the last token. Yields (token id, state of that token);
        the last token's state is None, because it is never fed. Ends with a stop token, after max_new_tokens, or where
        the cache is full.
        """
        room = min(max_new_tokens, cache.room)
        for step in range(room):
            token = self.next_token(state)
            if stop(token) or step == room - 1:
                yield token, None
                return
            state = self.decode(cache, token)
            yield token, state

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

    def _append(self, cache: KeyValueCache, embeds: Tensor, deepstack: DeepStack | None) -> Tensor:
        start, stop = cache.length, cache.length + len(embeds)
        positions = torch.arange(start, stop, device=embeds.device)
        hidden_rows = torch.arange(stop, device=embeds.device) > positions[:, None]
        place = _Place(positions, positions, _additive(hidden_rows, embeds.dtype))
        states = self._run(cache, embeds, place, deepstack)
        cache.length = stop
        return states

    def _branches(self, cache: KeyValueCache, branches: Sequence[Tensor], keep: Sequence[Tensor]) -> list[Tensor]:
        """Branches that fit into one chunk; or one of any length."""
        base = cache.length
        if len(branches) == 1:
            states = self.prefill(cache, branches[0], keep=keep[0])
            cache.rollback(base)
            return [states]
        sizes = [len(branch) for branch in branches]
        embeds = torch.cat(tuple(branches))
        states = self._run(cache, embeds, _branch_places(base, sizes, embeds))
        return [part[at] for part, at in zip(torch.split(states, sizes), keep, strict=True)]

    def _run(self, cache: KeyValueCache, embeds: Tensor, place: _Place, deepstack: DeepStack | None = None) -> Tensor:
        """embeds: (T, dim). Returns the states, (T, dim)."""

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
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


def _branch_places(base: int, sizes: Sequence[int], embeds: Tensor) -> _Place:
    """Branches one after the other behind `base` tokens: each counts on from there and sees these and itself."""
    device = embeds.device
    branch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(device)
    rows = torch.arange(len(embeds), device=device)
    starts = torch.tensor([0, *sizes], device=device).cumsum(0)
    foreign = (branch[:, None] != branch) | (rows > rows[:, None])
    hidden_rows = F.pad(foreign, (base, 0), value=False)
    return _Place(base + rows, base + rows - starts[branch], _additive(hidden_rows, embeds.dtype))


def _additive(hidden_rows: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask in the form every attention kernel takes, made once for all layers."""
    return torch.zeros_like(hidden_rows, dtype=dtype).masked_fill_(hidden_rows, float("-inf"))


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
