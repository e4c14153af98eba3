"""Answers that are written token by token, greedily: one with a step of static shapes, or several at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from x2sam_rt.model.key_value_cache import Branches, KeyValueCache
from x2sam_rt.model.language import Between, LanguageModel
from x2sam_rt.model.prompt_encoder import LanguageStates, PromptTokens
from x2sam_rt.model.stage_contract import not_finite
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.runtime.frame_graph import FrameGraph, Recorder
from x2sam_rt.runtime.growing_text import GrowingText
from x2sam_rt.tasks.marks import MarkedText, shortened, spell

# A step reads the cache up to a multiple of this, so that its shapes stay the same for as many tokens.
READ_STEP = 256


@dataclass(frozen=True, eq=False)
class AnsweredTokens:
    """A prompt's tokens with those of its answer, and the states of those that are read. text: the answer, as far as it
    counts."""

    ids: list[int]
    states: LanguageStates
    text: MarkedText


class GeneratedAnswer:
    """An answer while it is written. Every token that counts is fed to the language model, the last one too: what
    `</p>` closes when the answer is cut there has its states like any other phrase."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: PromptTokens, states: LanguageStates, text: GrowingText, limit: int
    ) -> None:
        """states: of the prompt, its last token among them. limit: tokens of the answer at most."""
        self._tokenizer, self._text, self._limit = tokenizer, text, limit
        self._ids, self._start = prompt.ids.tolist(), prompt.answer_start
        self._prompted, self._states = states, list[Tensor]()
        self._end: int | None = None

    @property
    def last_state(self) -> Tensor:
        """(dim,), from which the next token is chosen."""
        return self._states[-1] if self._states else self._prompted.values[-1]

    def takes(self, token: int) -> bool:
        """Whether the answer goes on with this token; its state is then kept. Not with a stop token, one that completes
        a stop text, or one too many. Raises EngineError where logits with NaN or infinity chose it."""
        if token < 0:
            raise not_finite("the language model")
        if len(self._states) == self._limit:
            return False
        self._ids.append(token)
        if token in self._tokenizer.stops:
            return False
        self._end = self._text.add(token)
        return self._end is None

    def keep(self, state: Tensor) -> None:
        """state: (dim,) of the token taken last."""
        self._states.append(state)

    def finish(self) -> AnsweredTokens:
        """The complete answer; with a stop text in it, up to there."""
        positions = torch.arange(self._start, self._start + len(self._states), device="cpu")
        states = LanguageStates(
            torch.cat((self._prompted.positions, positions)),
            torch.cat((self._prompted.values, *(state[None] for state in self._states))),
        )
        if self._end is None:
            self._text.finish()
            return AnsweredTokens(self._ids, states, self._words(self._ids))
        kept = self._ids
        while len(spell(self._words(kept))) > self._end:
            kept = kept[:-1]
        return AnsweredTokens(kept, states, shortened(self._words(self._ids), self._end))

    def _words(self, ids: list[int]) -> MarkedText:
        return self._tokenizer.decode_marked([token for token in ids[self._start :] if token not in self._stops])

    @property
    def _stops(self) -> frozenset[int]:
        return self._tokenizer.stops


class GreedyDecoder:
    """Writes one answer behind a cache's sequence. A step has the same shapes for READ_STEP tokens and asks the host
    nothing, so that it can be recorded; the host then waits for the token it chose."""

    def __init__(self, language: LanguageModel, cache: KeyValueCache, record: Recorder | None) -> None:
        """record: as for `FrameGraph`."""
        self._language, self._cache, self._record = language, cache, record
        self._token, self._next, self._position = torch.zeros(3, 1, dtype=torch.int64, device=cache.device)
        self._state = language.embeddings.weight.new_zeros(1, language.dim)
        self._steps: dict[int, FrameGraph] = {}

    def write(self, answer: GeneratedAnswer, between: Between | None = None) -> None:
        """Until the answer is complete. between: called before every step. Raises PromptError where the cache ends."""
        self._token.copy_(self._language.next_tokens(answer.last_state[None]))
        while answer.takes(int(self._token)):
            if between is not None:
                between()
            answer.keep(self._feed())

    def _feed(self) -> Tensor:
        """Appends the chosen token and chooses the next. Returns its state, (dim,)."""
        cache = self._cache
        cache.check_room(cache.length + 1)
        self._position.fill_(cache.length)
        self._step(min(cache.context, -(-(cache.length + 1) // READ_STEP) * READ_STEP))()
        cache.length += 1
        state: Tensor = self._state[0].clone()
        return state

    def _step(self, read: int) -> FrameGraph:
        if read not in self._steps:
            self._steps[read] = FrameGraph((partial(self._run, read),), self._advance, self._record)
        return self._steps[read]

    def _run(self, read: int) -> None:
        self._state.copy_(self._language.decode_step(self._cache, self._token, self._position, read))
        self._next.copy_(self._language.next_tokens(self._state))

    def _advance(self) -> None:
        self._token.copy_(self._next)


def write_together(language: LanguageModel, branches: Branches, answers: Mapping[int, GeneratedAnswer]) -> None:
    """Writes the answers of several branches, a token of each at a time; those that are complete drop out."""
    while answers:
        states = torch.stack([answer.last_state for answer in answers.values()])
        chosen = dict(zip(answers, language.next_tokens(states).tolist(), strict=True))
        answers = {branch: answer for branch, answer in answers.items() if answer.takes(chosen[branch])}
        if answers:
            fed = language.decode_branches(branches, list(answers), [chosen[branch] for branch in answers])
            for answer, state in zip(answers.values(), fed, strict=True):
                answer.keep(state)
