from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from davis import make_davis
from recordings import FIXTURES
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.data.synthetic import corpus
from x2sam_rt.errors import ConfigError, DataError
from x2sam_rt.model.checkpoint.files import read_tensor_file
from x2sam_rt.model.checkpoint.loading import empty_model, load_checkpoint, training_layout
from x2sam_rt.model.training.adapters import merged_state_dict
from x2sam_rt.model.training.curve import CurvePoint, read_curve
from x2sam_rt.model.training.finetune import TRAINED_WHOLE, FinetunePlan, Finetuning
from x2sam_rt.model.training.launch import CHECKPOINT_FILE, write_checkpoint
from x2sam_rt.model.training.sources import find_sources
from x2sam_rt.model.training.toy.model import make_tokenizer
from x2sam_rt.model.training.trainer import LOG_FILE, LossValues
from x2sam_rt.model.x2sam import X2SAM

LORA, ROWS = FIXTURES / "toy_lora", 403
BASE = str(LORA / "vlm")


@pytest.fixture(scope="module")
def davis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_davis(tmp_path_factory.mktemp("davis"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that the fixture's tables have rows for."""
    folder = tmp_path_factory.mktemp("tokenizer")
    assert make_tokenizer(corpus(60, 0), ROWS, folder) == ROWS
    return folder


@pytest.fixture
def plan(davis: Path, tokenizer: Path) -> FinetunePlan:
    """Of a training checkpoint with adapters."""
    return FinetunePlan(
        LORA,
        ("ref-davis17",),
        davis,
        vlm=BASE,
        tokenizer=tokenizer,
        decoder_steps=1,
        steps=2,
        learning_rate=1e-2,
        frames=3,
        accumulate=2,
    )


def run(plan: FinetunePlan, folder: Path, *, resume: bool = False, stop_after: int = 0) -> X2SAM:
    """Returns the model as it was trained."""
    tuning = Finetuning(plan)
    trained: list[X2SAM] = []

    def write(model: X2SAM, into: Path) -> None:
        trained.append(model)
        tuning.write(model, into)

    def report(step: int, _losses: LossValues) -> None:
        if step == stop_after:
            raise KeyboardInterrupt

    replace(tuning.run(folder, tuning.make_recipe(), resume=resume), write_result=write).start(lambda _: report)
    return trained[0]


def curve(folder: Path) -> list[CurvePoint]:
    return [replace(point, seconds=0) for point in read_curve(folder / LOG_FILE)]


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name].float())}


def test_a_training_checkpoint_learns_on_and_stays_one(plan: FinetunePlan, tmp_path: Path) -> None:
    trained = run(plan, tmp_path)
    before, after = read_tensor_file(LORA / "pytorch_model.bin"), read_tensor_file(tmp_path / CHECKPOINT_FILE)
    assert set(after) == set(before)
    moved = changed(before, after)
    for part in ("segmentor.encoder", "segmentor.decoder", "segmentor.memory_attention", "mlm_projector", "bg_embeds"):
        assert [name for name in moved if name.startswith(part)], part
    assert all(name in moved for name in after if name.endswith("lora_B.default.weight"))
    loaded = load_checkpoint(tmp_path, vlm=BASE)
    assert loaded.tokenizer_folder == tmp_path / "tokenizer"
    right = merged_state_dict(trained)
    for name, value in loaded.model.state_dict().items():
        torch.testing.assert_close(value, right[name], rtol=0, atol=1e-6, msg=name)
    assert [point.step for point in curve(tmp_path)] == [1, 2, 3]


def test_stage_one_moves_the_mask_decoder_alone(plan: FinetunePlan, tmp_path: Path) -> None:
    run(replace(plan, decoder_steps=2, steps=0), tmp_path)
    moved = changed(read_tensor_file(LORA / "pytorch_model.bin"), read_tensor_file(tmp_path / CHECKPOINT_FILE))
    assert moved
    assert all(name.startswith("segmentor.decoder.") for name in moved)


def test_stage_one_learns_masks_of_any_class(plan: FinetunePlan) -> None:
    first, second = Finetuning(plan).make_recipe().stages
    assert (first.weights.classification, first.weights.next_token) == (0, 0)
    assert first.weights.mask_bce == second.weights.mask_bce == 5
    assert second.weights.classification == 2


def test_learnable_is_what_a_training_checkpoint_holds(plan: FinetunePlan, tmp_path: Path) -> None:
    model = Finetuning(plan).make_model(tmp_path, 0)
    config: ModelConfig = model.config
    stored = {name for name in training_layout(empty_model(config), 4) if ".lora_" not in name}
    learnable = {name for name, value in model.named_parameters(remove_duplicate=False) if value.requires_grad}
    adapters = {name for name in learnable if name.endswith((".down", ".up"))}
    assert {name.replace("vlm.", "vlm.base_model.model.", 1) for name in learnable - adapters} == stored
    assert adapters
    assert all(name.startswith("vlm.model.language_model.layers.") for name in adapters)
    assert all(any(name.startswith(prefix) for name in learnable) for prefix in TRAINED_WHOLE)


def test_a_stopped_run_goes_on_as_if_nothing_had_been(plan: FinetunePlan, tmp_path: Path) -> None:
    plan = replace(plan, save_every=2)
    run(plan, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):  # as a kill would: after the save of step 2
        run(plan, tmp_path / "stopped", stop_after=3)
    run(plan, tmp_path / "stopped", resume=True)
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")
    one, other = (read_tensor_file(tmp_path / name / CHECKPOINT_FILE) for name in ("whole", "stopped"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("full", [True, False], ids=["all-weights", "new-adapters"])
def test_a_whole_checkpoint_stays_whole(plan: FinetunePlan, tmp_path: Path, full: bool) -> None:
    adapters = {} if full else {"rank": 2, "alpha": 8.0}
    write_checkpoint(tiny.untrained().model, tiny.untrained().folder.parent)
    whole = tiny.untrained().folder.parent
    given = replace(plan, checkpoint=whole, vlm=None, tokenizer=None, full=full, decoder_steps=0, steps=1, **adapters)
    run(given, tmp_path)
    before, after = load_checkpoint(whole).model, load_checkpoint(tmp_path).model
    moved = changed(before.state_dict(), after.state_dict())
    layers = {name for name in moved if "language_model.layers" in name}
    assert any(name.endswith("q_proj.weight") for name in layers)
    assert any(name.endswith("layernorm.weight") for name in layers) == full
    assert any("visual.blocks" in name for name in moved) == full
    assert any(name.startswith("segmentor.") for name in moved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 8}, "adapters of rank 4 and alpha 8, which learn on; found rank 8"),
        ({"alpha": 4.0}, "adapters of rank 4 and alpha 8, which learn on; found rank None and alpha 4"),
        ({"rank": 8, "full": True}, "takes no adapters"),
        ({"steps": 0, "decoder_steps": 0}, "not both 0"),
        ({"frames": 0}, "Clips of 0 frames"),
    ],
)
def test_plans_that_do_not_fit_are_refused(
    plan: FinetunePlan, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Finetuning(replace(plan, **changes)).make_model(tmp_path, 0)


def test_bf16_learns_the_same(plan: FinetunePlan, tmp_path: Path) -> None:
    run(plan, tmp_path / "fp32")
    run(replace(plan, amp=True), tmp_path / "bf16")
    exact, rounded = curve(tmp_path / "fp32"), curve(tmp_path / "bf16")
    assert exact != rounded
    for name, loss in exact[0].losses.items():
        assert rounded[0].losses[name] == pytest.approx(loss, rel=0.05)


def test_clips_are_drawn_of_all_examples(plan: FinetunePlan) -> None:
    (drawn,) = find_sources(plan.datasets, plan.root, plan.split, plan.frames, plan.seed).sources
    examples = [drawn.make(index) for index in range(4)]
    assert {example.name for example in examples} == {
        f"ref-davis17/train/{v}/{n}" for v in ("bear", "ant") for n in "01"
    }
    assert {len(example.frames) for example in examples} == {3}
    assert drawn.media == "video"
    later = [drawn.make(4 * again).frames for again in range(8)]
    assert any((frames != later[0]).any() for frames in later)


def test_a_data_set_that_is_not_there_is_named(plan: FinetunePlan) -> None:
    with pytest.raises(DataError, match="no reader for 'davis'"):
        Finetuning(replace(plan, datasets=("davis",))).make_recipe()
    with pytest.raises(DataError, match="no such folder"):
        Finetuning(replace(plan, root=Path("nowhere"))).make_recipe()
