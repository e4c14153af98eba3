from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from bounded import ends_in_time
from torch import Tensor

from x2sam_rt.data.example import Example
from x2sam_rt.data.synthetic import synthetic_example
from x2sam_rt.errors import ConfigError, DataError, TrainingError
from x2sam_rt.model.training import trainer as trainer_module
from x2sam_rt.model.training.curve import CurvePoint, read_curve
from x2sam_rt.model.training.launch import Run
from x2sam_rt.model.training.mixture import Mixture, Source
from x2sam_rt.model.training.recipe import Recipe, Stage
from x2sam_rt.model.training.state import STATE_FILE
from x2sam_rt.model.training.toy.auxiliary import AuxiliaryWeights
from x2sam_rt.model.training.trainer import LOG_FILE, Rank, Trainer, learning_rate

STEPS = 8
MASK_FEATURES = "segmentor.pixel_decoder.mask_projection"


def trainer(folder: Path, recipe: Recipe | None = None, *, resume: bool = False) -> Trainer:
    recipe = recipe or tiny.recipe()
    model = tiny.model(folder / "tokenizer", recipe.seed)
    tokenizer = tiny.load_tokenizer(folder / "tokenizer", model)
    return Trainer(model, tokenizer, recipe, folder, resume=resume, rank=Rank())


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """They take longer than the steps they show."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer_module, "draw_curve", lambda points, path: None)
        yield


def ignore(_step: int, _losses: object) -> None:
    pass


def curve(folder: Path) -> list[CurvePoint]:
    """The logged steps, without how long they took."""
    return [replace(point, seconds=0) for point in read_curve(folder / LOG_FILE)]


def weights(folder: Path) -> dict[str, Tensor]:
    stored = torch.load(folder / STATE_FILE, weights_only=True)
    return {**stored["model"], **{f"heads.{name}": value for name, value in stored["heads"].items()}}


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    trainer(folder).run(ignore)
    assert [point.step for point in curve(folder)] == list(range(1, STEPS + 1))
    return folder


@pytest.mark.parametrize("stopped", [1, 5])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(whole: Path, tmp_path: Path, stopped: int) -> None:
    told: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path).run(lambda step, _: told.append(step), lambda: len(told) == stopped)
    assert told == list(range(1, stopped + 1))
    trainer(tmp_path, resume=True).run(lambda step, _: told.append(step))
    assert told == list(range(1, STEPS + 1))
    assert curve(tmp_path) == curve(whole)
    assert same(tmp_path, whole)


KILLED = """
import sys, time
from pathlib import Path
import tiny
from x2sam_rt.model.training.launch import Run

def report(step, losses):
    print(step, flush=True)
    if step == {last}:
        time.sleep(600)

Run(Path(sys.argv[1]), tiny.model, tiny.recipe).start(lambda steps: report)
"""


def test_a_killed_run_goes_on_as_if_nothing_had_been(whole: Path, tmp_path: Path) -> None:
    last = 5  # between two saves
    path = os.pathsep.join((str(Path(tiny.__file__).parent), *sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", KILLED.format(last=last), str(tmp_path)]
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process,
        ends_in_time(process),
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == last:
                process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(curve(tmp_path)) == last
    Run(tmp_path, tiny.model, tiny.recipe, resume=True).start(lambda _: ignore)
    assert curve(tmp_path) == curve(whole)
    assert same(tmp_path, whole)


@pytest.mark.parametrize("last", [2, 5], ids=["before-the-first-save", "between-saves"])
def test_a_failed_step_leaves_the_last_save(whole: Path, tmp_path: Path, last: int) -> None:
    def fail(step: int, _: object) -> None:
        if step == last:
            raise TrainingError("made up")

    with pytest.raises(TrainingError, match="made up"):
        trainer(tmp_path).run(fail)
    resumed = trainer(tmp_path, resume=True)
    resumed.run(ignore)
    assert curve(tmp_path) == curve(whole)


def test_seeds_of_steps_are_the_same_in_every_process() -> None:
    code = "print(hash((0, 17, 1)), hash((3, 0, 2)))"
    for seed in ("0", "1", "random"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=900,
        )
        assert done.stdout.split() == [str(hash((0, 17, 1))).encode(), str(hash((3, 0, 2))).encode()]


def test_only_what_a_stage_trains_moves(tmp_path: Path) -> None:
    stages = tuple(replace(stage, trains=("segmentor.decoder.",)) for stage in tiny.recipe().stages)
    running = trainer(tmp_path, replace(tiny.recipe(), stages=stages))
    before = {name: value.clone() for name, value in running.model.state_dict().items()}
    for number in (0, 4):  # an image and a clip
        running.step(number)
    moved = {name for name, value in running.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("segmentor.decoder.") for name in moved)


def chatting(index: int) -> Example:
    return synthetic_example("train", index, "chat", media="image", settings=tiny.IMAGES)


WORDS = Mixture((Source("chat", "image", 10**6, chatting),), 2, 1, video_share=0)


def words_recipe() -> Recipe:
    """One stage that leaves the masks out."""
    stage = Stage("words", WORDS, 30, 5e-3, trains=("vlm.",), segments=False)
    return Recipe("words", (stage,), AuxiliaryWeights(naming=1.0, tower=1.0).heads)


def test_a_stage_of_words_moves_the_language_side_alone(tmp_path: Path) -> None:
    running = trainer(tmp_path, words_recipe())
    before = {name: value.clone() for name, value in running.model.state_dict().items()}
    losses = [running.step(number)[0] for number in range(30)]
    assert all(set(one) == {"next_token", "tower"} for one in losses)
    moved = {name for name, value in running.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[2] for name in moved if name.startswith("vlm.model.")} == {"language_model", "visual"}
    assert all(name.startswith("vlm.") for name in moved)
    for name in ("next_token", "tower"):
        first, last = (sum(one[name] for one in part) for part in (losses[:5], losses[-5:]))
        assert last < 0.8 * first


def test_words_are_rehearsed_beside_masks(tmp_path: Path) -> None:
    """A step learns from both batches, and from each as if it were alone."""
    stage = Stage("images", tiny.mixture(0), 4, 1e-3, rehearsal=WORDS, rehearsal_start=1)
    auxiliary = AuxiliaryWeights(tower=1.0).heads
    running = trainer(tmp_path, Recipe("rehearsed", (stage,), auxiliary))
    before, _ = running.step(0)
    assert not [name for name in before if name.startswith("rehearsed_")]
    state = {name: value.clone() for name, value in running.model.state_dict().items()}
    losses, _ = running.step(1)
    assert set(losses) == {*before, "rehearsed_next_token", "rehearsed_tower"}
    alone = trainer(tmp_path / "alone", Recipe("alone", (replace(stage, rehearsal=None),), auxiliary))
    alone.model.load_state_dict(state)
    without, _ = alone.step(1)
    for name in ("mask_bce", "dice", "classification", "next_token"):
        assert losses[name] == without[name]


def test_a_stage_of_words_refuses_visual_prompts(tmp_path: Path) -> None:
    marked = Source("marked", "video", 10**6, lambda index: tiny.clip(3 * index + 1), tiny.FRAMES)
    mixture = Mixture((marked,), image_batch=1, video_batch=1, video_share=1)
    recipe = Recipe("marked", (Stage("words", mixture, 1, 1e-3, segments=False),))
    with pytest.raises(ConfigError, match=r"does not segment cannot learn from visual prompts.*found 1 in world/"):
        trainer(tmp_path, recipe).step(0)


def test_what_never_learns_stays_and_is_not_stored(tmp_path: Path) -> None:
    recipe = tiny.recipe()
    model = tiny.model(tmp_path / "tokenizer", 0)
    model.segmentor.encoder.requires_grad_(False)
    tokenizer = tiny.load_tokenizer(tmp_path / "tokenizer", model)
    running = Trainer(model, tokenizer, recipe, tmp_path, resume=False, rank=Rank())
    before = {name: value.clone() for name, value in model.segmentor.encoder.state_dict().items()}
    running.step(0)
    running.save()
    assert all(torch.equal(value, before[name]) for name, value in model.segmentor.encoder.state_dict().items())
    assert not [name for name in weights(tmp_path) if name.startswith("segmentor.encoder.")]


def test_a_stage_must_train_something(tmp_path: Path) -> None:
    stages = tuple(replace(stage, trains=("segmentor.decodr.",)) for stage in tiny.recipe().stages)
    with pytest.raises(TrainingError, match=r"images trains nothing: .*segmentor\.decodr"):
        trainer(tmp_path, replace(tiny.recipe(), stages=stages)).step(0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (MASK_FEATURES, r"world/train/\d+/referring, frame 0: the cost of matching"),
        (
            "vlm.model.language_model.norm",
            r"The loss of step 1 is nan .*Its examples: world/train/\d+/referring, ",
        ),
    ],
    ids=["masks", "words"],
)
def test_a_loss_that_is_not_finite_names_its_examples(tmp_path: Path, name: str, message: str) -> None:
    running = trainer(tmp_path)
    with torch.no_grad():
        running.model.get_parameter(f"{name}.weight").fill_(float("nan"))
    with pytest.raises(TrainingError, match=message):
        running.step(0)


def test_a_gradient_that_is_not_finite_names_its_examples_and_moves_nothing(tmp_path: Path) -> None:
    running = trainer(tmp_path)
    weight = running.model.get_parameter(f"{MASK_FEATURES}.weight")
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight.detach().clone()
    with pytest.raises(TrainingError, match=r"gradient of step 1 is not finite.*world/train/\d+/referring"):
        running.step(0)
    assert torch.equal(weight, before)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps by one process that learns from two batches in each."""
    folder = tmp_path_factory.mktemp("pairs")
    trainer(folder, tiny.recipe(0.4, accumulate=2)).run(ignore)
    return folder


def test_processes_share_a_step_stop_together_and_go_on(pairs: Path, tmp_path: Path) -> None:
    """Two processes learn what one learns from both batches, Ctrl-C and a resumption in between."""

    def interrupt(step: int, _: object) -> None:
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, tiny.model, tiny.shared_recipe, 0.4).start(lambda _: interrupt)
    done = len(curve(tmp_path))
    assert done >= 1
    told: list[int] = []
    Run(tmp_path, tiny.model, tiny.shared_recipe, 0.4, resume=True).start(lambda _: lambda step, _: told.append(step))
    assert told == list(range(done + 1, 4))
    mine = weights(tmp_path)
    for name, value in weights(pairs).items():
        torch.testing.assert_close(mine[name], value, rtol=0, atol=1e-6, msg=name)


def test_the_error_of_any_process_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Example world/train/\d+/referring: it has masks, but no <SEG>"):
        Run(tmp_path, tiny.model, tiny.poisoned_recipe).start(lambda _: ignore)


def test_one_interrupt_waits_for_the_step_a_second_does_not(whole: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)  # a suite that runs in the background may ignore it

    def interrupt(step: int, _: object) -> None:
        if step == 2:
            signal.raise_signal(signal.SIGTERM)  # is heard as Ctrl-C is

    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, tiny.model, tiny.recipe).start(lambda _: interrupt)
    assert len(curve(tmp_path)) == 2
    assert torch.load(tmp_path / STATE_FILE, weights_only=True)["steps"] == 2

    def hurry(step: int, _: object) -> None:
        for _again in range(2):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, tiny.model, tiny.recipe, resume=True).start(lambda _: hurry)
    assert torch.load(tmp_path / STATE_FILE, weights_only=True)["steps"] == 2
    assert signal.getsignal(signal.SIGINT) is before
    Run(tmp_path, tiny.model, tiny.recipe, resume=True).start(lambda _: ignore)
    assert curve(tmp_path) == curve(whole)


def test_a_folder_with_a_run_is_not_overwritten(whole: Path) -> None:
    with pytest.raises(TrainingError, match="holds a training run"):
        Run(whole, tiny.model, tiny.recipe).start(lambda _: ignore)


@pytest.mark.parametrize(
    "other",
    [lambda scale: tiny.recipe(2 * scale), lambda scale: tiny.recipe(scale, accumulate=2)],
    ids=["longer", "two"],
)
def test_another_recipe_does_not_go_on(whole: Path, other: Callable[[float], Recipe]) -> None:
    with pytest.raises(TrainingError, match="state of another run: tiny: 3 steps of images"):
        Run(whole, tiny.model, other, resume=True).start(lambda _: ignore)


def stage(**changes: object) -> Stage:
    return replace(Stage("made up", tiny.mixture(0), 10, 0.5), **changes)


def test_rates_warm_up_then_fall_along_half_a_cosine() -> None:
    rates = [learning_rate(stage(warmup=2, start_factor=0.8, end_factor=0.2), step) for step in range(10)]
    assert rates[:2] == pytest.approx([0.2, 0.4])
    assert rates[2] == pytest.approx(0.4)
    assert rates[6] == pytest.approx(0.25)  # half of the way, half of the fall
    assert all(a > b for a, b in itertools.pairwise(rates[2:]))
    assert rates[9] > 0.1


@pytest.mark.parametrize("changes", [{}, {"steps": 1}, {"warmup": 10}, {"warmup": 99}])
def test_rates_never_exceed_the_highest(changes: dict[str, object]) -> None:
    one = stage(**changes)
    rates = [learning_rate(one, step) for step in range(one.steps)]
    assert all(0 < rate <= 0.5 for rate in rates)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "0 steps"),
        ({"teacher_forcing": 1.5}, r"teacher forcing 1\.5"),
        ({"learning_rate": -1.0}, r"learning rate -1\.0"),
        ({"warmup": -1}, "-1 steps of warm-up"),
    ],
)
def test_impossible_stages_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stage(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 0}, "accumulate is 0"),
        ({"processes": 0}, "processes is 0"),
        ({"save_every": 0}, "save_every is 0"),
        ({"stages": ()}, "no stage"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(tiny.recipe(), **changes)


def test_steps_belong_to_stages() -> None:
    recipe = tiny.recipe()
    assert [recipe.stage_at(step)[0].name for step in range(8)] == ["images"] * 3 + ["clips"] * 5
    assert recipe.stage_at(5)[1] == 2
    with pytest.raises(ConfigError, match="step 8 lies behind"):
        recipe.stage_at(8)
