"""Our loop over the language model's layers, against transformers' own and against itself in pieces."""

from __future__ import annotations

import contextlib
import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from x2sam_rt.errors import ConfigError, PromptError
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.key_value_cache import Branches
from x2sam_rt.model.language import DeepStack, LanguageModel

PAIRS, TOKENS_PER_PAIR = 3, 7
TEXT = [5, 17, 402, 3, 3, 100, 7, 250, 31, 8, 9]
LENGTH = PAIRS * (TOKENS_PER_PAIR + 2) + len(TEXT)
BOUND = 1e-4


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt with visual tokens in blocks, text between and behind them."""

    embeds: Tensor
    deepstack: DeepStack

    @property
    def places(self) -> Tensor:
        """(1, tokens) bool: the visual ones."""
        places = torch.zeros(1, len(self.embeds), dtype=torch.bool)
        places[0, self.deepstack.positions] = True
        return places


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def language(toy: Checkpoint) -> LanguageModel:
    return LanguageModel(toy.model.vlm)


@pytest.fixture(scope="module")
def prompt(language: LanguageModel) -> Prompt:
    ids, positions = [], []
    for _ in range(PAIRS):
        ids += [1] + [0] * TOKENS_PER_PAIR + [2]
        positions += range(len(ids) - TOKENS_PER_PAIR - 1, len(ids) - 1)
    embeds = language.embed(torch.tensor(ids + TEXT)).detach().clone()
    embeds[positions] = drawn(len(positions), embeds.shape[1])
    return Prompt(embeds, DeepStack(drawn(3, len(positions), embeds.shape[1], seed=1), torch.tensor(positions)))


@pytest.fixture(scope="module")
def whole(language: LanguageModel, prompt: Prompt) -> Tensor:
    return plain(language, prompt).detach()


def plain(language: LanguageModel, prompt: Prompt) -> Tensor:
    return language.states(prompt.embeds[None], prompt.places, prompt.deepstack.features)[0]


def after(language: LanguageModel, prompt: Prompt, branch: Tensor) -> Tensor:
    """States of a continuation of the whole prompt, by one plain forward."""
    joined = Prompt(torch.cat((prompt.embeds, branch)), prompt.deepstack)
    return plain(language, joined)[len(prompt.embeds) :].detach()


def stock(language: LanguageModel, prompt: Prompt) -> Tensor:
    """transformers' own model, with plain positions; its output is behind the final norm."""
    positions = torch.arange(len(prompt.embeds)).expand(3, 1, -1)
    out = language.text(
        inputs_embeds=prompt.embeds[None],
        position_ids=positions,
        visual_pos_masks=prompt.places,
        deepstack_visual_embeds=list(prompt.deepstack.features),
        use_cache=False,
    )
    states: Tensor = out.last_hidden_state[0]
    return states


def assert_close(ours: Tensor, wanted: Tensor) -> None:
    assert (ours - wanted).abs().max() <= BOUND * wanted.abs().max().clamp_min(1)


def test_is_transformers_model_up_to_the_final_norm(language: LanguageModel, prompt: Prompt, whole: Tensor) -> None:
    assert_close(language.text.norm(whole), stock(language, prompt).detach())


def test_a_batch_is_its_rows(language: LanguageModel, prompt: Prompt, whole: Tensor) -> None:
    other = torch.cat((prompt.places[:, 5:], prompt.places[:, :5]), dim=1)
    places = torch.cat((prompt.places, other))
    embeds = torch.stack((prompt.embeds, prompt.embeds.flip(0)))
    deepstack = torch.cat((prompt.deepstack.features, prompt.deepstack.features.flip(1)), dim=1)
    both = language.states(embeds, places, deepstack).detach()
    assert_close(both[0], whole)
    alone = language.states(embeds[1:], other, prompt.deepstack.features.flip(1)).detach()
    assert_close(both[1], alone[0])


def test_gradients_are_transformers_gradients(toy: Checkpoint, prompt: Prompt) -> None:
    language = LanguageModel(copy.deepcopy(toy.model.vlm).requires_grad_())
    gradients = []
    for states in (lambda asked: language.text.norm(plain(language, asked)), lambda asked: stock(language, asked)):
        language.text.zero_grad()
        embeds = prompt.embeds.clone().requires_grad_()
        features = prompt.deepstack.features.clone().requires_grad_()
        asked = Prompt(embeds, DeepStack(features, prompt.deepstack.positions))
        states(asked).square().mul(drawn(LENGTH, 1)).sum().backward()
        weights = [weight.grad for weight in language.text.layers.parameters()]
        gradients.append([embeds.grad, features.grad, *weights])
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is not None
        assert theirs is not None
        assert_close(ours, theirs)


@pytest.mark.parametrize("chunk", range(1, LENGTH + 1))
def test_chunks_of_any_size(toy: Checkpoint, prompt: Prompt, whole: Tensor, chunk: int) -> None:
    language = LanguageModel(toy.model.vlm, chunk)
    cache = language.new_cache(LENGTH)
    assert_close(language.prefill(cache, prompt.embeds, prompt.deepstack), whole)
    assert cache.room == 0


@pytest.mark.parametrize("chunk", [1, 4, LENGTH])
def test_only_wanted_states_are_kept(toy: Checkpoint, prompt: Prompt, whole: Tensor, chunk: int) -> None:
    language = LanguageModel(toy.model.vlm, chunk)
    keep = torch.tensor([0, 3, 4, LENGTH - 1])
    kept = language.prefill(language.new_cache(LENGTH), prompt.embeds, prompt.deepstack, keep)
    assert_close(kept, whole[keep])
    none = language.prefill(language.new_cache(LENGTH), prompt.embeds, prompt.deepstack, torch.arange(0))
    assert none.shape == (0, whole.shape[1])


@pytest.mark.parametrize("length", [1, 5, 14, LENGTH - 1], ids=["token", "in-a-block", "between-blocks", "all-but-one"])
def test_a_prefix_is_reused(language: LanguageModel, prompt: Prompt, whole: Tensor, length: int) -> None:
    cache = language.new_cache(LENGTH + 20)
    language.prefill(cache, torch.cat((prompt.embeds[:length], drawn(20, prompt.embeds.shape[1]))))
    cache.rollback(0)
    language.prefill(cache, prompt.embeds[:length], prompt.deepstack.part(0, length), torch.arange(0))
    # What another question left behind the prefix must not show.
    language.prefill(cache, 9 * drawn(20, prompt.embeds.shape[1]))
    cache.rollback(length)
    rest = language.prefill(cache, prompt.embeds[length:], prompt.deepstack.part(length, LENGTH))
    assert_close(rest, whole[length:])


@pytest.mark.parametrize("chunk", [1, 6, 13, 512])
def test_branches_do_not_see_one_another(toy: Checkpoint, prompt: Prompt, chunk: int) -> None:
    language = LanguageModel(toy.model.vlm, chunk)
    cache = language.new_cache(LENGTH + 40)
    language.prefill(cache, prompt.embeds, prompt.deepstack, torch.arange(0))
    embeds = [drawn(size, prompt.embeds.shape[1], seed=size) for size in (3, 1, 9, 2, 8)]
    keep = [torch.arange(len(own)).flip(0)[:2] for own in embeds]
    states = language.prefill_branches(Branches(cache, len(embeds)), embeds, keep)
    for own, at, found in zip(embeds, keep, states, strict=True):
        assert_close(found, after(language, prompt, own)[at])
    assert cache.length == LENGTH
    assert_close(language.prefill(cache, embeds[2]), after(language, prompt, embeds[2]))


def test_branches_grow_each_by_itself(language: LanguageModel, prompt: Prompt) -> None:
    cache = language.new_cache(LENGTH + 18)
    language.prefill(cache, prompt.embeds, prompt.deepstack, torch.arange(0))
    branches, embeds = Branches(cache, 3), [drawn(size, prompt.embeds.shape[1], seed=size) for size in (3, 1, 4)]
    language.prefill_branches(branches, embeds, [torch.arange(0)] * 3)
    tokens, states = [list[int](), list[int](), list[int]()], [list[Tensor](), list[Tensor](), list[Tensor]()]
    for step, owners in enumerate(((0, 1, 2), (2, 0), (2,), (0, 2), (1, 2))):  # some wait, one comes back
        fed = [20 + 3 * step + owner for owner in owners]
        for owner, token, state in zip(owners, fed, language.decode_branches(branches, owners, fed), strict=True):
            tokens[owner].append(token)
            states[owner].append(state)
    for own, written, found in zip(embeds, tokens, states, strict=True):
        whole = torch.cat((own, language.embed(torch.tensor(written)).detach()))
        assert_close(torch.stack(found), after(language, prompt, whole)[len(own) :])
    with pytest.raises(PromptError, match=f"reaches {LENGTH + 19} tokens; the context holds {LENGTH + 18}"):
        language.decode_branches(branches, [0], [5])


@pytest.mark.parametrize("chunk", [1, 5, LENGTH - 1])
def test_work_pauses_in_every_layer_and_goes_on_where_it_ended(
    toy: Checkpoint, prompt: Prompt, whole: Tensor, chunk: int
) -> None:
    language, calls = LanguageModel(toy.model.vlm, chunk), 0
    cache, layers = language.new_cache(LENGTH), len(toy.model.vlm.model.language_model.layers)

    class GivenUp(Exception):
        pass

    def between() -> None:
        nonlocal calls
        calls += 1
        if calls == 2 * layers:  # in the last layer of the second chunk, or before it
            raise GivenUp

    with contextlib.suppress(GivenUp):
        language.prefill(cache, prompt.embeds, prompt.deepstack, between=between)
    assert cache.length == chunk  # one chunk was done
    rest = language.prefill(cache, prompt.embeds[chunk:], prompt.deepstack.part(chunk, LENGTH))
    assert_close(rest, whole[chunk:])


def test_a_decoding_step_is_one_static_graph(language: LanguageModel) -> None:
    """What a CUDA graph asks of it: no value is looked up on the host, and no shape depends on the position."""
    cache = language.new_cache(100)
    ids = torch.arange(20) + 30
    whole = language.states(language.embed(ids)[None])[0].detach()
    torch._dynamo.reset()
    counter = CompileCounter()
    step = torch.compile(language.decode_step, backend=counter, fullgraph=True, dynamic=False)
    with torch.inference_mode():
        for position, token in enumerate(ids):
            state = step(cache, token[None], torch.tensor([position]), 60)
            assert_close(state[0], whole[position])
    assert counter.frame_count == 1


def test_threads_with_their_own_caches_do_not_mix(language: LanguageModel) -> None:
    prompts = [language.embed(torch.arange(30 + 7 * seed) * (seed + 3) % 403).detach() for seed in range(8)]

    def ask(embeds: Tensor) -> Tensor:
        return torch.stack([language.prefill(language.new_cache(100), embeds) for _ in range(10)])

    alone = [ask(embeds) for embeds in prompts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, prompts))
    for found, wanted in zip(together, alone, strict=True):
        assert torch.equal(found, wanted)


def test_memory_is_what_was_stated(language: LanguageModel, prompt: Prompt) -> None:
    cache = language.new_cache(100)
    config = language.text.config
    row = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert cache.nbytes == 100 * row
    before = cache.keys.data_ptr(), cache.values.data_ptr(), cache.nbytes
    for _ in range(3):
        cache.rollback(0)
        language.prefill(cache, prompt.embeds, prompt.deepstack)
        language.prefill_branches(Branches(cache, 1), [prompt.embeds[:5]], [torch.arange(5)])
    assert (cache.keys.data_ptr(), cache.values.data_ptr(), cache.nbytes) == before


def test_half_precision_errs_no_more_than_transformers(toy: Checkpoint, prompt: Prompt) -> None:
    exact = stock(LanguageModel(toy.model.vlm), prompt).detach()
    vlm = copy.deepcopy(toy.model.vlm).bfloat16()
    half = Prompt(prompt.embeds.bfloat16(), prompt.deepstack)
    language = LanguageModel(vlm, chunk=8)
    ours = language.text.norm(language.prefill(language.new_cache(LENGTH), half.embeds, half.deepstack))
    theirs = stock(language, half).detach()
    rounding = exact.abs().max() * 2**-8
    assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max() + rounding


def test_what_does_not_fit_is_refused(language: LanguageModel, toy: Checkpoint) -> None:
    with pytest.raises(PromptError, match=r"reaches 12 tokens; the context holds 11.*fewer frames, regions or words"):
        language.prefill(language.new_cache(11), drawn(12, 64))
    wrong: list[Any] = [0, language.max_context + 1, 12.5, "12", True]
    for context in wrong:
        with pytest.raises(ConfigError, match=f"context is {context!r} tokens; this model takes 1 to 4096"):
            language.new_cache(context)
    vlm = copy.deepcopy(toy.model.vlm)
    vlm.model.language_model.rotary_emb.rope_type = "dynamic"
    with pytest.raises(ConfigError, match="rope_type is 'dynamic'"):
        LanguageModel(vlm)
