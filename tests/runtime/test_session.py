from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from x2sam_rt.errors import FrameError, NoMasksError, PromptError, SessionError
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.model.frame_layout import RGB, Layout
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.session import VideoSession
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import Prompt

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

from limits import peak_alone


@pytest.fixture(scope="module")
def runtime(torch_bundle: Path) -> Iterator[Runtime]:
    with Runtime.load(torch_bundle) as loaded:
        yield loaded


def frames(count: int, height: int = 45, width: int = 61, seed: int = 0) -> list[np.ndarray]:
    noise = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    return [frame[np.ix_(rows, columns)] for frame in noise]


def masks(session: VideoSession, clip: list[np.ndarray]) -> list[np.ndarray]:
    return [session.step(frame).segmentation.map for frame in clip]


def test_results_come_in_the_frames_own_size(runtime: Runtime) -> None:
    with runtime.stream("the red circle") as session:
        for index, (height, width) in enumerate([(45, 61), (45, 61), (91, 33), (64, 64)]):
            result = session.step(frames(1, height, width)[0])
            assert result.index == index
            assert result.segmentation.map.shape == (height, width)
            assert result.masks.shape[1:] == (height, width)
            assert result.labels == ("the red circle",)
    assert {"preprocess", "frame_encoder", "memory_attention", "mask_decoder", "memory_encoder", "postprocess"} <= set(
        result.timings
    )


def test_numpy_and_torch_frames_agree(runtime: Runtime) -> None:
    clip = frames(3)
    with runtime.stream("dog") as one, runtime.stream("dog") as other:
        for frame in clip:
            ours, theirs = one.step(frame), other.step(torch.from_numpy(frame))
            assert np.array_equal(ours.segmentation.map, theirs.segmentation.map)


def test_frames_lie_as_is_said(runtime: Runtime) -> None:
    frame = frames(1)[0]
    floats = torch.from_numpy(frame).flip(-1).permute(2, 0, 1).double() / 255
    with runtime.stream("dog") as session, runtime.stream("dog") as other:
        plain = session.step(frame)
        np.testing.assert_array_equal(plain.masks, other.step(floats, Layout("CHW", "BGR", 1.0)).masks)
        (said,) = other.steps([floats], Layout("CHW", "BGR", 1.0))
        np.testing.assert_array_equal(session.step(frame).masks, said.masks)
    still = runtime.segment_image(frame, "dog")
    for image, layout in ((Image.fromarray(frame), RGB), (frame[..., ::-1], Layout(colors="BGR"))):
        np.testing.assert_array_equal(still.masks, runtime.segment_image(image, "dog", layout=layout).masks)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured on Linux")
def test_a_live_stream_of_large_frames_takes_bounded_memory(tmp_path: Path) -> None:
    """Of frames that are kept to be asked about, those beyond 512 MiB are kept as they are shown; 16 whole ones
    would take 768, and a step takes some beside."""
    export_bundle(ExportPlan(load_checkpoint(embedded_checkpoint()), "torch", verify=False), tmp_path / "bundle")
    frame = np.zeros((4096, 4096, 3), np.uint8)
    with Runtime.load(tmp_path / "bundle") as runtime, runtime.stream("dog") as session:
        session.step(frame)
        taken = peak_alone(lambda: [session.step(frame).index for _ in range(15)])
    assert taken < 2**29 + 4 * frame.nbytes, f"{taken:,} bytes"


def test_a_bad_frame_costs_nothing(runtime: Runtime) -> None:
    clip = frames(3)
    with runtime.stream("dog") as session, runtime.stream("dog") as undisturbed:
        for frame in clip:
            with pytest.raises(FrameError):
                session.step(frame.astype(np.float32))
            ours, theirs = session.step(frame), undisturbed.step(frame)
            assert ours.index == theirs.index
            assert np.array_equal(ours.segmentation.map, theirs.segmentation.map)


def test_two_sessions_do_not_disturb_each_other(runtime: Runtime) -> None:
    one, other = frames(5, seed=1), frames(5, 31, 80, seed=2)
    with runtime.stream("dog") as a, runtime.stream(Instruction("panoptic", things=("cat", "dog"))) as b:
        alone = masks(a, one), masks(b, other)
    with runtime.stream("dog") as a, runtime.stream(Instruction("panoptic", things=("cat", "dog"))) as b:
        mixed = [(a.step(x).segmentation.map, b.step(y).segmentation.map) for x, y in zip(one, other, strict=True)]
    for (x, y), first, second in zip(mixed, *alone, strict=True):
        assert np.array_equal(x, first)
        assert np.array_equal(y, second)


def test_ask_changes_the_instruction_in_mid_stream(runtime: Runtime) -> None:
    clip = frames(6)
    with runtime.stream("dog") as session:
        for frame in clip[:3]:
            assert session.step(frame).labels == ("dog",)
        session.ask(Instruction(phrases=("a cat", "the red circle")))
        result = session.step(clip[3])
        assert result.index == 3
        assert result.labels == ("a cat", "the red circle")


def test_memory_is_kept_or_dropped_as_asked(runtime: Runtime) -> None:
    clip = frames(4)
    with runtime.stream("dog") as kept, runtime.stream("dog") as dropped, runtime.stream("dog") as fresh:
        for frame in clip[:3]:
            kept.step(frame)
            dropped.step(frame)
        kept.ask("dog")
        dropped.ask("dog", keep_memory=False)
        assert "memory_attention" in kept.step(clip[3]).timings
        forgotten = dropped.step(clip[3])
        assert "memory_attention" not in forgotten.timings
        assert "memory_attention" not in fresh.step(clip[3]).timings
        assert forgotten.index == 3


def test_after_a_cut_the_memory_can_be_emptied(runtime: Runtime) -> None:
    clip = frames(3)
    with runtime.stream("dog") as session:
        session.step(clip[0])
        session.forget()
        result = session.step(clip[1])
        assert "memory_attention" not in result.timings
        assert result.labels == ("dog",)
        assert "memory_attention" in session.step(clip[2]).timings
    with pytest.raises(SessionError, match="closed"):
        session.forget()


def test_a_refused_instruction_leaves_the_one_in_force(runtime: Runtime) -> None:
    clip = frames(2)
    with runtime.stream("dog") as session:
        session.step(clip[0])
        with pytest.raises(PromptError):
            session.ask("  ")
        with pytest.raises(PromptError, match="frame 7"):
            session.ask(Instruction("object", regions=(Prompt.point(3, 3, frame=7),)))
        assert session.step(clip[1]).labels == ("dog",)


def test_an_answer_without_masks_says_so_and_returns_the_text(runtime: Runtime) -> None:
    """Random weights never write <SEG> of their own accord."""
    with runtime.stream(Instruction("gcg", max_new_tokens=9)) as session, pytest.raises(NoMasksError) as caught:
        session.step(frames(1)[0])
    assert caught.value.text
    assert "draws no masks" in str(caught.value)


def test_generated_text_arrives_as_it_grows(runtime: Runtime) -> None:
    pieces: list[str] = []
    with runtime.stream(
        Instruction("chat", question="what is it?", max_new_tokens=12), on_text=pieces.append
    ) as session:
        result = session.step(frames(1)[0])
    assert len(pieces) > 1
    assert result.text.startswith("".join(pieces).lstrip()[:5])
    assert result.segments == ()


def test_a_given_answer_is_grounded(runtime: Runtime) -> None:
    given = "<p>the boy</p> jumps on <p>a bed</p>. <SEG>."
    with runtime.stream(Instruction("gcg", answer=given)) as session:
        result = session.step(frames(1)[0])
    assert result.text == "the boy jumps on a bed."
    assert [result.text[span.start : span.end] for span in result.spans] == ["the boy", "a bed"]
    assert result.labels == ("the boy", "a bed")


@pytest.mark.parametrize(
    "prompt",
    ["", "   "],
)
def test_empty_instructions_are_refused(runtime: Runtime, prompt: str) -> None:
    with pytest.raises(PromptError):
        runtime.stream(prompt)


def test_a_region_is_read_on_its_own_frame(runtime: Runtime) -> None:
    clip = frames(4)
    with runtime.stream("dog") as session:
        for frame in clip[:3]:
            session.step(frame)
        session.ask(Instruction("object", regions=(Prompt.box(5, 5, 30, 30, frame=1),)))
        on_first = session.answer
        session.ask(Instruction("object", regions=(Prompt.box(5, 5, 30, 30, frame=2),)))
        on_second = session.answer
        assert on_first is not None
        assert on_second is not None
        assert on_first.embeddings is not None
        assert on_second.embeddings is not None
        assert not torch.allclose(on_first.embeddings.conditions, on_second.embeddings.conditions)
        assert session.step(clip[3]).index == 3


def test_more_regions_than_the_context_holds(runtime: Runtime) -> None:
    context = runtime.manifest.model.language["text_config"]["max_position_embeddings"]
    regions = tuple(Prompt.point(x % 60, 5 + x // 60) for x in range(context // 64))
    with (
        runtime.stream(Instruction("vgd", regions=regions)) as session,
        pytest.raises(PromptError, match=rf"the context holds {context}.*fewer frames, regions"),
    ):
        session.step(frames(1)[0])


def test_step_needs_an_open_session_with_an_instruction(runtime: Runtime) -> None:
    session = runtime.stream()
    with pytest.raises(SessionError, match="before any instruction"):
        session.step(frames(1)[0])
    session.close()
    session.close()
    for action in (lambda: session.step(frames(1)[0]), lambda: session.ask("dog")):
        with pytest.raises(SessionError, match=r"closed; open another"):
            action()


def test_a_closed_runtime_opens_nothing(torch_bundle: Path) -> None:
    with Runtime.load(torch_bundle) as loaded:
        session = loaded.stream("dog")
    with pytest.raises(SessionError):
        session.step(frames(1)[0])
    with pytest.raises(SessionError, match="load the bundle again"):
        loaded.stream("dog")


def test_backends_give_the_same_masks(runtime: Runtime, onnx_bundle: Path) -> None:
    clip = frames(6)
    with Runtime.load(onnx_bundle) as other, other.stream("dog") as theirs, runtime.stream("dog") as ours:
        for frame in clip:
            one, two = ours.step(frame).masks, theirs.step(frame).masks
            assert (one & two).sum() >= 0.999 * (one | two).sum()


def test_an_image_is_one_frame(runtime: Runtime) -> None:
    result = runtime.segment_image(frames(1)[0], "dog")
    assert result.index == 0
    assert "memory_attention" not in result.timings
    assert result.masks.shape == (1, 45, 61)
