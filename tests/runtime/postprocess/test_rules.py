"""Every task's rule against the same rule written down literally, on frames of awkward sizes: on the CPU, and with the
rules for GPUs on a simulated one, where the host waits once per frame."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from simulated_gpu import GPU, GpuTensor, simulated_gpu

from x2sam_rt.media.types import BoolMask
from x2sam_rt.runtime.postprocess import make_postprocessor
from x2sam_rt.runtime.postprocess.rule import FrameLogits, PostProcessor, Size
from x2sam_rt.runtime.postprocess.tiles import TileGrid
from x2sam_rt.runtime.results import Segmentation
from x2sam_rt.tasks.instruction import PostProcessOptions
from x2sam_rt.tasks.regions import Prompt
from x2sam_rt.tasks.table import TASKS, Conditions

QUERIES, LABELS, THINGS = 23, 5, 3
DEVICE = torch.device("cpu")
SHAPES = pytest.mark.parametrize(
    ("grid", "scaled", "original"),
    [(16, (64, 64), (97, 131)), (16, (37, 64), (139, 241)), (64, (64, 64), (31, 17))],
    ids=["stretched", "padded", "small"],
)


def literal_rules() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "naive_postprocess.py"
    spec = importlib.util.spec_from_file_location("naive_postprocess", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


naive = literal_rules()


@pytest.fixture(autouse=True, params=["cpu", "cuda:0"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "DEVICE", torch.device(request.param))


class OnSimulatedGpu:
    """A rule whose frames go to a simulated GPU, its state staying there from call to call."""

    def __init__(self, make: Callable[[], PostProcessor]) -> None:
        with simulated_gpu():
            self._post = make()

    def __call__(self, frame: FrameLogits) -> Segmentation:
        with simulated_gpu() as gpu:
            sizes = frame.side, frame.scaled_size, frame.original_size
            there = FrameLogits(frame.mask_logits.to(GPU), frame.class_logits.to(GPU), *sizes)
            TileGrid.of(there)  # made and sent up once for a size
            gpu.take()
            found = self._post(there)
            assert gpu.take() == {"down": 1}
            there.mask_logits.fill_(float("nan"))  # as the next frame would
            areas = [segment.area for segment in found.segments]
            assert areas == [np.count_nonzero(segment.mask) for segment in found.segments]
            assert found.map.shape == found.size == frame.original_size
        return found


def frame_of(
    labels: int, grid: int = 16, scaled: Size = (64, 64), original: Size = (97, 131), seed: int = 0
) -> FrameLogits:
    """Blobs that overlap, with probabilities of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, grid), torch.linspace(0, 1, grid), indexing="ij")
    centre = torch.rand(QUERIES, 2, 1, 1, generator=generator)
    radius = 0.1 + 0.3 * torch.rand(QUERIES, 1, 1, generator=generator)
    masks = 25 * (radius - torch.hypot(y - centre[:, 0], x - centre[:, 1]))
    masks += torch.randn(masks.shape, generator=generator)
    classes = 4 * torch.randn(QUERIES, labels + 1, generator=generator)
    return FrameLogits(masks, classes, 64, scaled, original)


def post_processor(task: str, labels: int, mask: BoolMask | None = None, **options: Any) -> PostProcessor:
    names = tuple(f"label {k}" for k in range(labels))
    things = tuple(k < THINGS or task == "vgd" for k in range(labels))
    prompt = None if mask is None else torch.from_numpy(mask)[None]
    row = TASKS[task]
    assert row.rule is not None
    resolved = PostProcessOptions(**options).resolved(row.threshold)
    conditions, rule = Conditions(names, things), row.rule
    if DEVICE == GPU:
        there = None if prompt is None else GpuTensor(prompt)
        return OnSimulatedGpu(lambda: make_postprocessor(rule, conditions, resolved, there, GPU))
    return make_postprocessor(rule, conditions, resolved, prompt)


def assert_same(found: Segmentation, wanted: list[tuple[int, float, torch.Tensor]]) -> None:
    assert [segment.label_id for segment in found.segments] == [label for label, _, _ in wanted]
    assert [segment.score for segment in found.segments] == pytest.approx([score for _, score, _ in wanted], abs=1e-4)
    for segment, (_, _, mask) in zip(found.segments, wanted, strict=True):
        assert np.mean(segment.mask != mask.numpy()) <= 1e-3


@SHAPES
def test_panoptic(grid: int, scaled: Size, original: Size) -> None:
    frame = frame_of(LABELS, grid, scaled, original)
    wanted = naive.panoptic(frame, LABELS, 0.4, 0.5)
    assert len(wanted) >= 3
    found = post_processor("panoptic", LABELS, threshold=0.4, overlap=0.5)(frame)
    assert_same(found, wanted)
    assert (found.map == 0).any()
    for segment in found.segments:
        assert (found.map[segment.mask] == segment.id).all()
    things = [segment.id for segment in found.segments if segment.is_thing]
    assert len(set(things)) == len(things)


def test_panoptic_of_nothing() -> None:
    frame = frame_of(LABELS)
    frame.class_logits[:, -1] += 50
    found = post_processor("panoptic", LABELS)(frame)
    assert found.segments == ()
    assert (found.map == found.empty).all()


def test_panoptic_stuff_shares_an_id() -> None:
    frame = frame_of(1)
    masks = torch.full((2, 16, 16), -9.0)
    masks[0, :, :8], masks[1, :, 8:] = 9, 9
    classes = torch.full((2, LABELS + 1), -9.0)
    classes[:, LABELS - 1] = 9
    frame = FrameLogits(masks, classes, 64, (64, 64), (97, 131))
    found = post_processor("panoptic", LABELS)(frame)
    assert [segment.id for segment in found.segments] == [1, 1]
    assert [segment.is_thing for segment in found.segments] == [False, False]


@SHAPES
def test_semantic(grid: int, scaled: Size, original: Size) -> None:
    frame = frame_of(LABELS, grid, scaled, original)
    found = post_processor("semantic", LABELS)(frame)
    wanted = naive.semantic(frame, LABELS).numpy()
    assert len(np.unique(wanted)) >= 3
    assert np.mean(found.map != wanted) <= 1e-3
    assert {segment.label_id for segment in found.segments} == set(np.unique(found.map))


@SHAPES
def test_instance(grid: int, scaled: Size, original: Size) -> None:
    frame = frame_of(LABELS, grid, scaled, original)
    things = tuple(k < THINGS for k in range(LABELS))
    wanted = naive.instance(frame, LABELS, 0.3, things)
    assert len(wanted) >= 3
    found = post_processor("instance", LABELS)(frame)
    assert_same(found, wanted)
    best = found.segments[0]
    assert (found.map[best.mask] == best.id).all()
    assert found.empty == -1


def test_grounded_by_prompts_knows_no_stuff() -> None:
    frame = frame_of(LABELS)
    wanted = naive.instance(frame, LABELS, 0.3, (True,) * LABELS)
    found = post_processor("vgd", LABELS)(frame)
    assert_same(found, wanted)
    assert any(segment.label_id >= THINGS for segment in found.segments)
    assert found.empty == 255


@SHAPES
def test_phrases(grid: int, scaled: Size, original: Size) -> None:
    frame = frame_of(LABELS, grid, scaled, original)
    found = post_processor("gcg", LABELS)(frame)
    wanted = naive.phrases(frame, LABELS)
    assert_same(found, wanted)
    assert [segment.id for segment in found.segments] == list(range(1, LABELS + 1))
    last = found.segments[-1]
    assert (found.map[last.mask] == last.id).all()


@pytest.mark.parametrize("together", [0.2, 0.9])
def test_phrases_take_all_good_queries_together(together: float) -> None:
    frame = frame_of(LABELS)
    found = post_processor("gcg", LABELS, together=together)(frame)
    masks = naive.resized(frame) > 0
    for segment in found.segments:
        probability = frame.class_logits.softmax(-1)[:, segment.label_id]
        chosen = (probability >= together) | (probability == probability.max())
        assert np.mean(segment.mask != masks[chosen].any(0).numpy()) <= 1e-3
        assert segment.score == pytest.approx(float(probability[chosen].mean()), abs=1e-5)


def test_a_phrase_that_is_nowhere_has_no_segment() -> None:
    frame = frame_of(1)
    frame.mask_logits[:] = -5
    found = post_processor("referring", 1)(frame)
    assert found.segments == ()
    assert (found.map == 255).all()


def test_an_answer_without_phrases_has_no_segments() -> None:
    found = post_processor("gcg", 0)(frame_of(1))
    assert found.segments == ()


def test_padded_conditions_are_left_out() -> None:
    frame = frame_of(LABELS)
    padding = torch.full((QUERIES, 3), -1e6)
    padded = torch.cat([frame.class_logits[:, :-1], padding, frame.class_logits[:, -1:]], 1)
    wide = FrameLogits(frame.mask_logits, padded, frame.side, frame.scaled_size, frame.original_size)
    for task in ("panoptic", "semantic", "instance", "gcg"):
        assert np.array_equal(post_processor(task, LABELS)(frame).map, post_processor(task, LABELS)(wide).map), task


@pytest.mark.parametrize("threshold", [0.2, 0.999], ids=["several", "only the best"])
def test_interactive(threshold: float) -> None:
    frame = frame_of(1, scaled=(37, 64), original=(139, 241))
    prompt = Prompt.point(40, 20, radius=8).mask(64, 64)
    at_frame = torch.nn.functional.interpolate(torch.from_numpy(prompt[:37])[None, None].float(), size=(139, 241))[0, 0]
    wanted = naive.interactive(frame, threshold, at_frame > 0)
    found = post_processor("interactive", 1, mask=prompt, threshold=threshold)(frame)
    assert_same(found, wanted)
    assert set(np.unique(found.map)) == {1, 255}


def test_object_is_followed_by_its_place() -> None:
    """Two equal queries: the prompt decides, then the memory of where the object was."""
    masks = torch.full((2, 16, 16), -9.0)
    masks[0, :, :8], masks[1, :, 8:] = 9, 9
    classes = torch.tensor([[5.0, 0.0], [5.01, 0.0]])
    frame = FrameLogits(masks, classes, 64, (64, 64), (60, 80))
    follow = post_processor("object", 1, mask=Prompt.box(2, 2, 30, 62).mask(64, 64))
    first = follow(frame).segments[0]
    assert first.mask[:, :30].all()
    assert not first.mask[:, 50:].any()
    overlap = 28 * 60 / (64 * 32)
    assert first.score == pytest.approx(0.2 * overlap + 0.8 * float(classes[0].softmax(0)[0]), abs=0.02)
    second = follow(frame).segments[0]
    assert second.score > first.score
    assert np.array_equal(second.mask, first.mask)


def test_object_follows_through_a_change_of_size() -> None:
    frame = frame_of(1)
    follow = post_processor("object", 1, mask=Prompt.point(30, 30).mask(64, 64))
    follow(frame)
    other = FrameLogits(frame.mask_logits, frame.class_logits, 64, (64, 64), (50, 51))
    assert follow(other).map.shape == (50, 51)


@pytest.mark.parametrize("task", ["panoptic", "instance", "vgd"])
def test_ids_stay_over_a_stream(task: str) -> None:
    """The same frame with its queries shuffled, then at another size: the ids belong to the same masks."""
    frame = frame_of(LABELS)
    order = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(1))
    shuffled = FrameLogits(frame.mask_logits[order], frame.class_logits[order], 64, (64, 64), (97, 131))
    resized = FrameLogits(frame.mask_logits, frame.class_logits, 64, (64, 64), (120, 140))
    post = post_processor(task, LABELS, threshold=0.4, overlap=0.5)
    first = {segment.id: segment for segment in post(frame).segments}
    second = {segment.id: segment for segment in post(shuffled).segments}
    assert len(first) >= 3
    assert second.keys() == first.keys()
    for key in first:
        assert second[key].label == first[key].label
        assert np.mean(second[key].mask != first[key].mask) <= 1e-3 or not first[key].is_thing
    assert {segment.id for segment in post(resized).segments} == first.keys()


def test_the_number_of_threads_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        post_processor("referring", 1)(frame_of(1))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
