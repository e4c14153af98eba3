"""What the language side has computed already and may use again: a prompt's beginning, and what was seen of frames.

Both are found by content, never by name: frames whose pixels changed are other frames, and nothing stale is found.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from x2sam_rt.model.key_value_cache import KeyValueCache
from x2sam_rt.model.prompt_encoder import VISUAL_PLACE, VisualTokens

_OFFSET_BITS = 24  # tokens of one pair that keys can tell apart


@dataclass(frozen=True, eq=False)
class FramePair:
    """Two frames as the visual tower sees them together. digest: of their pixels and of the size they are shown in."""

    frames: tuple[Tensor, Tensor]
    digest: bytes


def frame_pairs(frames: Sequence[Tensor], target: tuple[int, int], digests: Sequence[bytes]) -> list[FramePair]:
    """frames: (H, W, 3) uint8 each, with the digests of their pixels; an odd last one makes a pair with itself.
    target: (height, width) that they are resized to."""
    shown = [*zip(frames, digests, strict=True)]
    shown += shown[-1:] * (len(shown) % 2)
    return [
        FramePair((one, other), blake2b(first + second + repr(target).encode(), digest_size=16).digest())
        for (one, first), (other, second) in zip(shown[::2], shown[1::2], strict=True)
    ]


def token_keys(ids: Sequence[int], pairs: Sequence[FramePair], per_pair: int) -> list[int]:
    """One number per token, the same for two tokens only if the model is fed the same: a word's id, or for a visual
    token, below zero, its pair's digest and place. Tokens of regions have ids that no such number meets; prompts that
    hold them may share what stands before the first."""
    keys, seen = list(ids), 0
    for index, token in enumerate(ids):
        if token == VISUAL_PLACE:
            pair, offset = divmod(seen, per_pair)
            keys[index] = -1 - (int.from_bytes(pairs[pair].digest) << _OFFSET_BITS | offset)
            seen += 1
    return keys


class Prefix:
    """The language model's key-value cache, with the keys of the tokens in it."""

    def __init__(self, cache: KeyValueCache) -> None:
        self.cache = cache
        self._keys: list[int] = []

    def share(self, keys: Sequence[int], limit: int) -> int:
        """Keeps the longest beginning that is shared with `keys`, at most `limit` tokens, and forgets the rest. What is
        appended to the cache next must be the tokens of `keys` from there on. Returns its length."""
        length = shared_length(self._keys[: self.cache.length], keys[:limit])
        self.cache.rollback(length)
        self._keys = list(keys)
        return length


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Of the beginning that two sequences have in common."""
    both = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(both) if a != b), min(len(one), len(other)))


class SeenPairs:
    """What the visual tower made of pairs of frames; those not used for longest are given up.

    capacity: visual tokens that are kept, over all pairs.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._seen: OrderedDict[bytes, VisualTokens] = OrderedDict()

    @property
    def nbytes(self) -> int:
        return sum(visual.nbytes for visual in self._seen.values())

    def get(self, pairs: Sequence[FramePair], see: Callable[[list[FramePair]], VisualTokens]) -> VisualTokens:
        """All the pairs' tokens, in order. see: runs the tower over those that are new, each once."""
        new = {pair.digest: pair for pair in pairs if pair.digest not in self._seen}
        if new:
            self._keep(list(new), see(list(new.values())))
        for pair in pairs:
            self._seen.move_to_end(pair.digest)
        found = [self._seen[pair.digest] for pair in pairs]
        self._forget()
        return VisualTokens(
            torch.cat([visual.tokens for visual in found]), torch.cat([visual.deepstack for visual in found], dim=1)
        )

    def _keep(self, digests: Sequence[bytes], visual: VisualTokens) -> None:
        for index, digest in enumerate(digests):
            one = slice(index, index + 1)
            # Copies: a view would keep the whole batch.
            self._seen[digest] = VisualTokens(visual.tokens[one].clone(), visual.deepstack[:, one].clone())

    def _forget(self) -> None:
        tokens = sum(visual.tokens.shape[1] for visual in self._seen.values())
        while tokens > self._capacity:
            _, visual = self._seen.popitem(last=False)
            tokens -= visual.tokens.shape[1]
