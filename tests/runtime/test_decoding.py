"""Answers written token by token: greedy, as one plain forward would choose, the same alone, recorded or together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from simulated_gpu import GPU, simulated_gpu
from torch import Tensor

from x2sam_rt.errors import EngineError, PromptError
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.key_value_cache import Branches, KeyValueCache
from x2sam_rt.model.language import LanguageModel
from x2sam_rt.model.prompt_encoder import LanguageStates, PromptEncoder, PromptTokens
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import BundleFiles, load_manifest
from x2sam_rt.runtime.decoding import READ_STEP, AnsweredTokens, GeneratedAnswer, GreedyDecoder, write_together
from x2sam_rt.runtime.frame_graph import CudaRecorder, Recorder, Work
from x2sam_rt.runtime.growing_text import GrowingText
from x2sam_rt.runtime.weights import load_model
from x2sam_rt.tasks.marks import link

BOUND = 1e-4
PROMPTS = ([5, 17, 402, 100, 7], [8, 9, 31, 250, 61, 77, 12, 90], [44])


class Recordings:
    """Stands for CUDA graphs: runs the warm-up, then what was recorded; counts both."""

    def __init__(self) -> None:
        self.replays: list[int] = []

    def __call__(self, prepare: Work, finish: Work) -> Work:
        prepare()
        number = len(self.replays)
        self.replays.append(0)

        def replay() -> None:
            self.replays[number] += 1
            prepare()
            finish()

        return replay


@pytest.fixture(scope="module")
def language(toy: Checkpoint) -> LanguageModel:
    return LanguageModel(toy.model.vlm)


@pytest.fixture(scope="module")
def tokenizer(toy: Checkpoint) -> Tokenizer:
    return Tokenizer.load(toy.tokenizer_folder, 4096)


def plain(language: LanguageModel, ids: list[int]) -> Tensor:
    return language.states(language.embed(torch.tensor(ids))[None])[0].detach()


def begun(
    language: LanguageModel, tokenizer: Tokenizer, cache: KeyValueCache, ids: list[int], limit: int
) -> GeneratedAnswer:
    """After a prefill of the prompt `ids`."""
    states = language.prefill(cache, language.embed(torch.tensor(ids).to(cache.device)))
    return answer_to(tokenizer, ids, states[-1:], limit)


def answer_to(tokenizer: Tokenizer, ids: list[int], last: Tensor, limit: int) -> GeneratedAnswer:
    read = LanguageStates(torch.tensor([len(ids) - 1]), last)
    prompt, text = PromptTokens(torch.tensor(ids), len(ids)), GrowingText(tokenizer, (), None)
    return GeneratedAnswer(tokenizer, prompt, read, text, limit)


def assert_greedy(language: LanguageModel, said: AnsweredTokens, prompt: list[int]) -> None:
    """Every token is the likeliest one, and the states are those of one plain forward."""
    whole = plain(language, said.ids)
    written = said.ids[len(prompt) :]
    assert written == language.next_tokens(whole[len(prompt) - 1 : -1]).tolist()
    wanted = whole[said.states.positions]
    assert (said.states.values - wanted).abs().max() <= BOUND * wanted.abs().max().clamp_min(1)


@pytest.mark.parametrize("recorder", [Recordings, lambda: None], ids=["recorded", "called"])
def test_writes_the_likeliest_tokens_across_the_steps_of_reading(
    language: LanguageModel, tokenizer: Tokenizer, recorder: Callable[[], Recorder | None]
) -> None:
    prompt = (torch.arange(READ_STEP - 2) % 400).tolist()
    cache, record = language.new_cache(READ_STEP + 20), recorder()
    answer = begun(language, tokenizer, cache, prompt, limit=7)
    GreedyDecoder(language, cache, record).write(answer)
    said = answer.finish()
    assert len(said.ids) == len(prompt) + 7
    assert said.states.positions.tolist() == list(range(len(prompt) - 1, len(prompt) + 7))  # the last one's too
    assert_greedy(language, said, prompt)
    if isinstance(record, Recordings):
        assert record.replays == [2, 5]


def test_an_answer_ends_where_the_context_does(language: LanguageModel, tokenizer: Tokenizer) -> None:
    cache = language.new_cache(len(PROMPTS[0]) + 3)
    answer = begun(language, tokenizer, cache, PROMPTS[0], limit=4)
    with pytest.raises(PromptError, match="larger context="):
        GreedyDecoder(language, cache, None).write(answer)


def test_a_stop_token_ends_an_answer_and_is_not_fed(language: LanguageModel, tokenizer: Tokenizer) -> None:
    cache = language.new_cache(50)
    answer = begun(language, tokenizer, cache, PROMPTS[0], limit=9)
    assert answer.takes(40)
    answer.keep(answer.last_state)
    assert not answer.takes(tokenizer.im_end)
    said = answer.finish()
    assert said.ids[len(PROMPTS[0]) :] == [40, tokenizer.im_end]
    assert len(said.states.positions) == 2
    assert said.text == tokenizer.decode_marked([40])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_token_that_nothing_sound_chose_is_an_error(
    toy: Checkpoint, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """States may be sound where what is made of them is not: NaN has a likeliest token too."""
    language = LanguageModel(toy.model.vlm)
    head = language.head
    monkeypatch.setattr(language, "head", lambda states: torch.cat((head(states), states[..., :1] * 0 + value), -1))
    cache = language.new_cache(50)
    answer = begun(language, tokenizer, cache, PROMPTS[0], limit=9)
    assert answer.last_state.isfinite().all()
    with pytest.raises(EngineError, match="Results of the language model hold NaN or infinity"):
        GreedyDecoder(language, cache, None).write(answer)
    with pytest.raises(EngineError, match="Results of the language model hold NaN or infinity"):
        write_together(language, Branches(cache, 1), {0: answer})


@pytest.mark.parametrize("kept", range(4, 9))
def test_where_an_answer_is_cut_its_phrases_have_their_embeddings(
    toy: Checkpoint, language: LanguageModel, tokenizer: Tokenizer, kept: int
) -> None:
    """Also the phrase whose `</p>` is the last token there was room for."""
    opened, closed = tokenizer.phrase_start, tokenizer.phrase_end
    tokens = [opened, 40, closed, tokenizer.seg, opened, 41, 42, closed][:kept]
    states = plain(language, PROMPTS[0] + tokens)[len(PROMPTS[0]) - 1 :]
    answer = answer_to(tokenizer, PROMPTS[0], states[:1], limit=kept)
    for token, state in zip(tokens, states[1:], strict=True):
        assert answer.takes(token)
        answer.keep(state)
    assert not answer.takes(43)
    said = answer.finish()
    embeddings = PromptEncoder(toy.model).read(said.ids, said.states, len(PROMPTS[0]), tokenizer)
    assert embeddings is not None
    phrases = 2 if kept == 8 else 1
    assert len(link(said.text).phrases) == phrases
    assert len(embeddings.conditions) == phrases + 1  # and the background


def test_several_answers_at_once_are_those_of_each_alone(language: LanguageModel, tokenizer: Tokenizer) -> None:
    limits, shared = (6, 2, 11), [3, 30, 300, 33]
    wanted = []
    for prompt, limit in zip(PROMPTS, limits, strict=True):
        cache = language.new_cache(60)
        answer = begun(language, tokenizer, cache, shared + prompt, limit)
        GreedyDecoder(language, cache, None).write(answer)
        wanted.append(answer.finish())
    cache = language.new_cache(60)
    language.prefill(cache, language.embed(torch.tensor(shared)))
    branches, embeds = Branches(cache, 3), [language.embed(torch.tensor(prompt)) for prompt in PROMPTS]
    last = language.prefill_branches(branches, embeds, [torch.tensor([len(prompt) - 1]) for prompt in PROMPTS])
    answers = {
        index: answer_to(tokenizer, shared + prompt, last[index], limits[index]) for index, prompt in enumerate(PROMPTS)
    }
    write_together(language, branches, answers)
    for index, alone in enumerate(wanted):
        together = answers[index].finish()
        assert together.ids == alone.ids
        assert_greedy(language, together, shared + PROMPTS[index])


def loaded(bundle: Path, device: torch.device) -> X2SAM:
    manifest = load_manifest(bundle)
    return load_model(manifest, BundleFiles(bundle, manifest.files), device)


def test_a_step_is_one_graph_and_waits_for_its_token_only(torch_bundle: Path, tokenizer: Tokenizer) -> None:
    with simulated_gpu() as gpu, torch.no_grad():
        language = LanguageModel(loaded(torch_bundle, GPU).vlm)
        cache, steps = language.new_cache(60), list[dict[str, int]]()
        answer = begun(language, tokenizer, cache, PROMPTS[0], limit=12)
        GreedyDecoder(language, cache, CudaRecorder(GPU)).write(answer, lambda: steps.append(dict(gpu.take())))
        written = answer.finish().ids
        assert [graph.replays for graph in gpu.device.graphs] == [12]
        assert steps[2:] == [{"item": 1}] * 10  # the graph was recorded in the first
    language = LanguageModel(loaded(torch_bundle, torch.device("cpu")).vlm)
    cache = language.new_cache(60)
    alone = begun(language, tokenizer, cache, PROMPTS[0], limit=12)
    GreedyDecoder(language, cache, None).write(alone)
    assert written == alone.finish().ids
