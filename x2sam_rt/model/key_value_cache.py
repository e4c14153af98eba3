"""Keys and values of a token sequence and of its continuations, in memory that is taken once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_rt.errors import PromptError


@dataclass(frozen=True, eq=False)
class Place:
    """Where tokens go: rows of the cache they are written to, (T,) int64; their positions, (T,) int64; the first `read`
    rows of the cache are attended to, as mask (T, read) says (0 = seen, −inf = hidden)."""

    rows: Tensor
    positions: Tensor
    mask: Tensor

    @property
    def read(self) -> int:
        return self.mask.shape[1]


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
    def dtype(self) -> torch.dtype:
        return self.keys.dtype

    @property
    def device(self) -> torch.device:
        return self.keys.device

    @property
    def room(self) -> int:
        """Tokens that may still be appended."""
        return self.context - self.length

    def check_room(self, length: int) -> None:
        """Raises PromptError when a sequence of `length` tokens does not fit."""
        if length > self.context:
            raise PromptError(
                f"The prompt reaches {length} tokens; the context holds {self.context}. "
                "Ask with fewer frames, regions or words, or load the bundle with a larger context=."
            )

    def rollback(self, length: int) -> None:
        """Forgets all but the first `length` tokens; what follows is computed as if nothing else had been there."""
        assert 0 <= length <= self.length, f"rollback to {length} of {self.length} tokens"
        self.length = length

    def next_place(self, count: int) -> Place:
        """For the next tokens of the sequence; they count as in it once `length` says so."""
        start, stop = self.length, self.length + count
        positions = torch.arange(start, stop, device=self.device)
        hidden = torch.arange(stop, device=self.device) > positions[:, None]
        return Place(positions, positions, additive(hidden, self.dtype))


class Branches:
    """Continuations of a cache's sequence, each blind to the others.

    Their tokens lie behind the sequence in the order they come, whichever branch they belong to; the sequence stays
    what it is, and the next branches, or tokens of its own, are written over them.
    """

    def __init__(self, cache: KeyValueCache, count: int) -> None:
        self.cache = cache
        self._owners = torch.empty(0, dtype=torch.int64, device=cache.device)
        self._lengths = [0] * count

    def next_place(self, owners: Sequence[int]) -> Place:
        """For the next tokens, given the branch of each; they count as in it from now on."""
        base, used = self.cache.length, len(self._owners)
        self.cache.check_room(base + used + len(owners))
        own = torch.tensor(owners, device=self.cache.device)
        self._owners = torch.cat((self._owners, own))
        rows = torch.arange(len(self._owners), device=self.cache.device)
        foreign = (self._owners != own[:, None]) | (rows > rows[used:, None])
        mask = additive(F.pad(foreign, (base, 0), value=False), self.cache.dtype)
        positions = torch.tensor([base + self._count(owner) for owner in owners], device=self.cache.device)
        return Place(base + rows[used:], positions, mask)

    def _count(self, owner: int) -> int:
        self._lengths[owner] += 1
        return self._lengths[owner] - 1


def additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask in the form every attention kernel takes, made once for all layers."""
    return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, float("-inf"))
