"""A stream's step: bound once, checked once, and nobody else's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from spoiling import Spoiling
from torch import Tensor

from x2sam_rt.config import SCALES, Turns
from x2sam_rt.errors import EngineError
from x2sam_rt.export.engines import build_engines
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.prompt_encoder import PromptEmbeddings
from x2sam_rt.model.stage_contract import StageContract
from x2sam_rt.runtime.engines import BACKENDS
from x2sam_rt.runtime.engines.engine import Engines, run_once
from x2sam_rt.runtime.pipeline import Pipeline


@pytest.fixture(scope="module", params=[name for name, row in BACKENDS.items() if not row.needs_gpu])
def engines(request: pytest.FixtureRequest, toy: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Engines:
    return build_engines(toy.model, request.param, tmp_path_factory.mktemp(request.param))


def prompt(dim: int, conditions: int) -> PromptEmbeddings:
    return PromptEmbeddings(torch.randn(1, dim), torch.randn(conditions, dim), torch.randn(2 * conditions + 1, dim))


def pictures(side: int, frames: int, seed: int) -> Tensor:
    return torch.randn(frames, 1, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_steady_frames_check_nothing(toy: Checkpoint, engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    config, checked = toy.model.config, list[str]()
    check = StageContract.check

    def counted(self: StageContract, *tensors: dict[str, Tensor]) -> None:
        checked.append(self.name)
        check(self, *tensors)

    monkeypatch.setattr(StageContract, "check", counted)
    slots = config.memory.slots
    pipeline = Pipeline(engines, config)
    assert sorted(checked) == ["frame_encoder", *["memory_attention"] * slots]
    for first in (prompt(config.dim, 3), prompt(config.dim, 5)):
        checked.clear()
        for picture in pictures(config.image_size, 2 * slots + 2, seed=1):
            pipeline.step(picture, first)
        assert sorted(checked) == ["mask_decoder"] * 2 + ["memory_encoder"] * slots


def test_streams_share_engines_and_nothing_else(toy: Checkpoint, engines: Engines) -> None:
    config = toy.model.config
    torch.manual_seed(0)
    asked = [prompt(config.dim, 3), prompt(config.dim, 4), prompt(config.dim, 2)]
    seen = [pictures(config.image_size, 8, seed) for seed in (1, 2)]

    def run(pipeline: Pipeline, stream: int, frame: int) -> Tensor:
        """The first stream changes its prompt on the way."""
        wanted = asked[2] if stream == 0 and frame >= 5 else asked[stream]
        return pipeline.step(seen[stream][frame], wanted).mask_logits.clone()

    alone = []
    for stream in (0, 1):
        pipeline = Pipeline(engines, config)
        alone.append([run(pipeline, stream, frame) for frame in range(8)])
    together = Pipeline(engines, config), Pipeline(engines, config)
    for frame in range(8):
        for stream in (0, 1):
            assert torch.equal(run(together[stream], stream, frame), alone[stream][frame])
    assert not torch.equal(alone[0][0], alone[1][0])


def test_pixels_of_another_shape_are_refused(toy: Checkpoint, tmp_path: Path) -> None:
    pipeline = Pipeline(build_engines(toy.model, "torch", tmp_path), toy.model.config)
    with pytest.raises(EngineError, match=r"A frame of \(1, 3, 1, 1\)"):
        pipeline.step(torch.zeros(1, 3, 1, 1), prompt(toy.model.config.dim, 2))


@pytest.mark.parametrize(
    ("stage", "output", "frame"),
    [
        ("frame_encoder", "low", 0),
        ("frame_encoder", "mask_features", 0),
        ("mask_decoder", "class_logits", 0),
        ("mask_decoder", "mask_logits", 0),
        ("memory_encoder", "slot", 1),
        ("memory_attention", "conditioned_high", 1),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_results_with_nan_name_their_stage(
    toy: Checkpoint, engines: Engines, stage: str, output: str, frame: int, value: float
) -> None:
    """In the frame where masks are made of it."""
    config = toy.model.config
    spoilt = replace(engines, **{stage: Spoiling(getattr(engines, stage), output, value)})
    pipeline, asked = Pipeline(spoilt, config), prompt(config.dim, 3)
    seen = pictures(config.image_size, frame + 1, seed=1)
    for picture in seen[:frame]:
        pipeline.step(picture, asked)
    with pytest.raises(EngineError, match=f"Results of stage {stage} hold NaN or infinity"):
        pipeline.step(seen[frame], asked)


def test_prompts_with_nan_name_the_language_model(toy: Checkpoint, engines: Engines) -> None:
    config, asked = toy.model.config, prompt(toy.model.config.dim, 3)
    asked.conditions[1, 2] = float("nan")
    with pytest.raises(EngineError, match="Results of the language model hold NaN"):
        Pipeline(engines, config).step(pictures(config.image_size, 1, seed=1)[0], asked)


@pytest.mark.parametrize("gaps", ["frames", "writes"])
@pytest.mark.parametrize("reads", ["frames", "writes"])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_what_is_remembered_and_looked_at(every: int, reads: Turns, gaps: Turns) -> None:
    """Beside a list of past slots that is written down as the knobs are described; every=1 is the published model."""
    trained = tiny.untrained().model
    config = replace(trained.config, memory=replace(trained.config.memory, every=every, reads=reads, gaps=gaps))
    engines = build_engines(trained, "torch", Path())
    asked, ours = prompt(config.dim, 2), Pipeline(engines, config)
    past, slots = list[tuple[int, Tensor]](), config.memory.slots
    for frame, picture in enumerate(pictures(config.image_size, 3 * every + 2, seed=2)):
        kept = frame % every == 0
        looks = kept or reads == "frames"
        latest = range(max(0, len(past) - slots), len(past)) if looks else ()
        live = [past[number] for number in sorted(latest, key=lambda number: number % slots)]  # as the ring has them
        now = frame if gaps == "frames" else len(past)
        wanted, slot = one_frame(engines, picture, asked, [(now - then, memory) for then, memory in live])
        if kept:
            past.append((now, slot))
        found = ours.step(picture, asked)
        for name, tensor in wanted.items():
            assert torch.equal(getattr(found, name), tensor), (frame, name)
        assert ("memory_encoder" in ours.timer.take()) == kept


def one_frame(
    engines: Engines, picture: Tensor, asked: PromptEmbeddings, live: list[tuple[int, Tensor]]
) -> tuple[dict[str, Tensor], Tensor]:
    """A frame's prediction and its slot, stage by stage. live: slots with their ages, in the order of the ring."""
    encoded = run_once(engines.frame_encoder, {"frame": picture, "first": torch.tensor([float(not live)])})
    own = {name: encoded[name] for name in SCALES}
    seen = own
    if live:
        memory = {
            "memory": torch.stack([slot for _, slot in live]),
            "frame_offsets": torch.tensor([float(age) for age, _ in live]),
        }
        conditioned = run_once(engines.memory_attention, {**own, **memory})
        seen = {name: conditioned[f"conditioned_{name}"] for name in SCALES}
    masks = {
        "condition_mask": torch.ones(len(asked.conditions), dtype=torch.bool),
        "token_mask": torch.ones(len(asked.tokens), dtype=torch.bool),
    }
    decoded = run_once(
        engines.mask_decoder, {**seen, "mask_features": encoded["mask_features"], **vars(asked), **masks}
    )
    logits = {name: decoded[name] for name in ("mask_logits", "class_logits")}
    return decoded, run_once(engines.memory_encoder, {**own, **logits})["slot"]


def test_the_memory_begins_anew_with_the_frame_after_it_was_forgotten() -> None:
    trained = tiny.untrained().model
    config = replace(trained.config, memory=replace(trained.config.memory, every=3))
    engines = build_engines(trained, "torch", Path())
    asked, ours = prompt(config.dim, 2), Pipeline(engines, config)
    kept = []
    for frame, picture in enumerate(pictures(config.image_size, 9, seed=2)):
        if frame == 5:
            ours.forget()
        ours.step(picture, asked)
        kept.append("memory_encoder" in ours.timer.take())
    assert kept == [True, False, False, True, False, True, False, False, True]
