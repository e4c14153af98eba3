"""A bundle on a GPU, as far as that shows without one: everything is made there, nothing meets a tensor of the host,
and the numbers are those of the CPU (`simulated_gpu.py`)."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from simulated_gpu import GPU, GpuTensor, SimulatedGpu, simulated_gpu
from simulated_streams import address
from spoiling import Spoiling
from torch.overrides import TorchFunctionMode

import x2sam_rt
from x2sam_rt.errors import EngineError, FrameError
from x2sam_rt.media.types import Pixels
from x2sam_rt.model.preprocess import _resize
from x2sam_rt.runtime import background_asks
from x2sam_rt.runtime.bundle import load_manifest
from x2sam_rt.runtime.device import device_for, find_device
from x2sam_rt.runtime.language import Answer
from x2sam_rt.runtime.prompt_frames import PromptFrames
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.session import VideoSession
from x2sam_rt.runtime.upload import FrameUpload
from x2sam_rt.tasks.instruction import Instruction, PostProcessOptions
from x2sam_rt.tasks.regions import parse_region

LOW = PostProcessOptions(threshold=0.05)
REGIONS = (parse_region("box:10,10,50,60"), parse_region("point:40,30"))
INSTRUCTIONS = {
    "referring": Instruction(phrases=("the red circle", "a dog")),
    "panoptic": Instruction("panoptic", things=("circle", "dog"), stuff=("grass",), options=LOW),
    "semantic": Instruction("semantic", things=("circle", "dog"), stuff=("grass",)),
    "instance": Instruction("instance", things=("circle", "dog"), options=LOW),
    "vgd": Instruction("vgd", regions=REGIONS, options=LOW),
    "object": Instruction("object", regions=REGIONS[:1]),
    "chat": Instruction("chat", question="What is there?", max_new_tokens=4),
}


def frames(side: int, count: int, seed: int = 0) -> list[Pixels]:
    """Of the model's own size: nothing is resized, and the CPU's 8-bit rounding plays no part."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("asked", [pytest.param(value, id=name) for name, value in INSTRUCTIONS.items()])
def test_gives_what_a_cpu_gives(torch_bundle: Path, asked: Instruction) -> None:
    with Runtime.load(torch_bundle) as runtime, runtime.stream(asked) as session:
        clip = frames(runtime.manifest.model.image_size, runtime.manifest.model.memory.slots + 2)
        wanted = [session.step(frame) for frame in clip]
    with simulated_gpu(), Runtime.load(torch_bundle, device="cuda") as runtime, runtime.stream(asked) as session:
        assert runtime.device == GPU
        for frame, cpu in zip(clip, wanted, strict=True):
            gpu = session.step(frame)
            assert gpu.text == cpu.text
            assert gpu.labels == cpu.labels
            np.testing.assert_allclose(gpu.scores, cpu.scores, atol=1e-4)
            assert np.count_nonzero(gpu.masks != cpu.masks) <= 1e-3 * cpu.masks.size
            assert np.count_nonzero(gpu.segmentation.map != cpu.segmentation.map) <= 1e-3 * cpu.segmentation.map.size
    assert asked.task == "chat" or any(result.masks.any() for result in wanted)


def test_answers_are_made_on_a_stream_of_their_own(torch_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ordered with that of the frames wherever both use the same memory: the simulation raises where they are not."""
    with simulated_gpu() as gpu, Runtime.load(torch_bundle, device="cuda") as runtime, runtime.stream("dog") as session:
        clip, default = frames(runtime.manifest.model.image_size, 3), gpu.device.default.cuda_stream
        session.step(clip[0])
        streams, launch = set[int](), gpu.device.order.launch

        def noted(stream: int, *rest: Any) -> None:
            streams.add(stream)
            launch(stream, *rest)

        monkeypatch.setattr(gpu.device.order, "launch", noted)
        for prompt, frame in (("a cat", clip[1]), (INSTRUCTIONS["chat"], clip[2])):
            session.ask(prompt)
            assert streams
            assert default not in streams
            session.step(frame)
            streams.clear()


class Halfway:
    """Stops an answer that is made beside a stream between its first two pieces, until `go_on`."""

    def __init__(self, gpu: SimulatedGpu, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        answer_question = background_asks.answer_question

        def there(*arguments: Any) -> Answer:
            with gpu.on_this_thread():
                return answer_question(*arguments)

        def pause() -> None:
            self.reached.set()
            assert self.go_on.wait(60)

        monkeypatch.setattr(background_asks, "answer_question", there)
        monkeypatch.setattr(runtime.language.frames_first, "stand_back", pause)

    def reach(self) -> None:
        assert self.reached.wait(60)


def results_beside_an_answer(session: VideoSession, clip: list[Pixels], halfway: Halfway | None) -> list[FrameResult]:
    """A frame, a question, a frame while it is being answered, and frames with the answer in force."""
    first = session.step(clip[0])
    session.ask("a cat", wait=False)
    if halfway is not None:
        halfway.reach()
    meanwhile = session.step(clip[1])
    if halfway is not None:
        halfway.go_on.set()
    while not session.answer_ready:
        time.sleep(0.01)
    return [first, meanwhile, *map(session.step, clip[2:])]


def test_an_answer_made_beside_frames_is_handed_over_to_their_stream(
    torch_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one stream wrote and the other reads is ordered; and the answer's memory is known to be the frames' too."""
    clip = frames(load_manifest(torch_bundle).model.image_size, 4)
    with Runtime.load(torch_bundle) as runtime:
        with runtime.stream("dog") as before:
            wanted = [before.step(frame) for frame in clip[:2]]
        with runtime.stream("dog") as after:
            after.step(clip[0])
            answer = runtime.answer_all(["a cat"], PromptFrames((torch.from_numpy(clip[0]),), {}))[0]
            after.step(clip[1])
            after.ask(answer)
            wanted += [after.step(frame) for frame in clip[2:]]
    with simulated_gpu() as gpu, Runtime.load(torch_bundle, device="cuda") as runtime, runtime.stream("dog") as session:
        ours = results_beside_an_answer(session, clip, Halfway(gpu, runtime, monkeypatch))
        assert session.answer is not None
        used = {address(tensor.held) for tensor in session.answer.tensors if isinstance(tensor, GpuTensor)}
        assert len(used) == 3
        assert {(place, gpu.device.default.cuda_stream) for place in used} <= gpu.device.recorded
        for result, cpu in zip(ours, wanted, strict=True):
            assert result.labels == cpu.labels
            assert np.count_nonzero(result.masks != cpu.masks) <= 1e-3 * cpu.masks.size
    assert [result.labels for result in ours] == [("dog",)] * 2 + [("a cat",)] * 2


def test_an_answer_that_nobody_waited_for_is_noticed(torch_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the simulation would tell if the hand-over were missing."""
    clip = frames(load_manifest(torch_bundle).model.image_size, 3)
    with simulated_gpu() as gpu, Runtime.load(torch_bundle, device="cuda") as runtime, runtime.stream("dog") as session:
        halfway = Halfway(gpu, runtime, monkeypatch)
        monkeypatch.setattr(torch.cuda.Stream, "synchronize", lambda stream: None)
        with pytest.raises(RuntimeError, match="does not wait for work on the same memory on another stream"):
            results_beside_an_answer(session, clip, halfway)


def test_a_frame_goes_up_once_and_a_few_numbers_come_down_once(torch_bundle: Path) -> None:
    with simulated_gpu() as gpu, Runtime.load(torch_bundle, device="cuda") as runtime:
        side = runtime.manifest.model.image_size
        for name, asked in INSTRUCTIONS.items():
            with runtime.stream(asked) as session:
                session.step(frames(side, 1)[0])  # it carries the instruction
                gpu.take()
                segments = session.step(frames(side, 1)[0]).segments
                wanted = Counter({"up": 1, "pinned up": 1, "down": int(name != "chat")})
                assert gpu.take() == +wanted, name
                there = torch.from_numpy(frames(side, 1, seed=1)[0]).to("cuda")
                gpu.take()
                session.step(there)
                assert gpu.take() == ({} if name == "chat" else {"down": 1}), name
                assert segments or name == "chat"


def test_results_with_nan_name_their_stage(torch_bundle: Path) -> None:
    """Whatever the task makes of them; what comes to the host of each frame (above) is enough to tell."""
    nan, infinity = float("nan"), float("inf")
    cases = [(name, "mask_decoder", "mask_logits", 0, nan) for name in INSTRUCTIONS if name != "chat"]
    cases += [("referring", "frame_encoder", "low", 0, nan), ("panoptic", "mask_decoder", "class_logits", 0, infinity)]
    cases += [
        ("object", "memory_encoder", "slot", 1, nan),
        ("semantic", "memory_attention", "conditioned_high", 1, nan),
    ]
    with simulated_gpu(), Runtime.load(torch_bundle, device="cuda") as runtime:
        sound, clip = runtime.engines, frames(runtime.manifest.model.image_size, 2)
        for name, stage, output, frame, value in cases:
            spoilt = {stage: Spoiling(getattr(sound, stage), output, value)}
            runtime._engines = replace(sound, **spoilt)  # type: ignore[arg-type]
            with runtime.stream(INSTRUCTIONS[name]) as session:
                for picture in clip[:frame]:
                    session.step(picture)
                with pytest.raises(EngineError, match=f"Results of stage {stage} hold NaN or infinity"):
                    session.step(clip[frame])
        runtime._engines = sound


def test_frames_that_wait_already_are_read_ahead(torch_bundle: Path) -> None:
    """With the same results, in the same order; a frame that cannot be segmented is complained of in its turn."""
    read: list[int] = []

    def source(clip: list[Pixels]) -> Iterator[Pixels]:
        for number, frame in enumerate(clip):
            read.append(number)
            yield frame

    with simulated_gpu() as gpu, Runtime.load(torch_bundle, device="cuda") as runtime:
        clip = frames(runtime.manifest.model.image_size, runtime.manifest.model.memory.slots + 3)
        with runtime.stream(INSTRUCTIONS["panoptic"]) as session:
            wanted = [session.step(frame) for frame in clip]
        with runtime.stream(INSTRUCTIONS["panoptic"]) as session:
            first = len(gpu.device.graphs)
            for number, result in enumerate(session.steps(source([*clip, clip[0][:, :, :1]]))):  # type: ignore[list-item]
                assert result.index == number == len(read) - 2
                assert np.array_equal(result.segmentation.map, wanted[number].segmentation.map)
                if number + 1 == len(clip):
                    break
            encoder = {stream for graph, stream in gpu.device.replayed if graph == first}
            assert gpu.device.default.cuda_stream not in encoder
            with pytest.raises(FrameError, match="A frame has shape"):
                list(session.steps([clip[0][:, :, :1]]))


def test_on_a_cpu_no_frame_is_read_ahead(torch_bundle: Path) -> None:
    read: list[int] = []
    with Runtime.load(torch_bundle) as runtime, runtime.stream("a dog") as session:
        clip = frames(runtime.manifest.model.image_size, 3)
        for number, result in enumerate(session.steps(read.append(k) or clip[k] for k in range(3))):  # type: ignore[func-returns-value]
            assert result.index == number == len(read) - 1
    assert read == [0, 1, 2]


# Functions that make a tensor out of nothing, and put it on the default device when they are told no other.
FACTORIES = frozenset(
    (
        *(torch.zeros, torch.ones, torch.empty, torch.full, torch.arange, torch.linspace, torch.eye, torch.tensor),
        *(torch.rand, torch.randn, torch.randint, torch.as_tensor, torch.scalar_tensor, torch.empty_strided),
    )
)


class WithoutDevice(TorchFunctionMode):
    """Lists the lines of the package that make a tensor and do not say where."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FACTORIES and (kwargs or {}).get("device") is None:
            caller = sys._getframe(1)
            self.lines.add(f"{caller.f_code.co_filename}:{caller.f_lineno}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("asked", [pytest.param(value, id=name) for name, value in INSTRUCTIONS.items()])
def test_every_tensor_says_where_it_is_made(torch_bundle: Path, asked: Instruction) -> None:
    with WithoutDevice() as found, Runtime.load(torch_bundle) as runtime, runtime.stream(asked) as session:
        for frame in frames(100, 3):
            session.step(frame)
    package = str(Path(str(x2sam_rt.__file__)).parent)
    assert sorted(line for line in found.lines if line.startswith(package)) == []


def test_the_hook_notices(torch_bundle: Path) -> None:
    with WithoutDevice() as found:
        torch.zeros(2)
        torch.zeros(2, device="cpu")
        with torch.device("cpu"):
            torch.zeros(2)
    assert len(found.lines) == 1


def test_tensors_of_two_devices_do_not_meet() -> None:
    with simulated_gpu() as gpu:
        there = torch.ones(3, device="cuda")
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(3)
        assert float((there * 2).sum()) == 6
        assert gpu.take() == {"item": 1}


def test_numpy_frames_go_up_through_pinned_memory_and_gpu_frames_stay() -> None:
    with simulated_gpu() as gpu:
        upload = FrameUpload(GPU)
        pictures = frames(8, 3) + frames(6, 1)
        for picture in pictures:
            gpu.take()
            sent = upload(torch.from_numpy(picture))
            assert isinstance(sent, GpuTensor)
            assert gpu.take() == {"up": 1, "pinned up": 1}
            assert np.array_equal(sent.cpu().numpy(), picture)
        gpu.take()
        assert upload(sent) is sent
        assert not gpu.take()


@pytest.mark.parametrize("size", [(37, 61), (480, 853), (64, 64), (200, 190)], ids=str)
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_resizing_on_the_gpu_is_pillows_within_one_level(size: tuple[int, int], filter: str) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    with simulated_gpu():
        ours = _resize(torch.from_numpy(picture).to("cuda"), (96, 128), filter).cpu().numpy()
    pillow = Image.fromarray(picture).resize((128, 96), getattr(Image.Resampling, filter.upper()))
    assert np.abs(ours.transpose(1, 2, 0).astype(int) - np.asarray(pillow).astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda", "Looked for the NVIDIA GPU cuda; found none: PyTorch .* (CUDA|driver)"),
        ("gpu", 'There is no device .gpu.; wanted "cpu", "cuda" or "cuda:N"'),
        ("meta", "Nothing here runs on meta"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
def test_a_device_that_is_not_there(torch_bundle: Path, name: str, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        Runtime.load(torch_bundle, device=name)


def test_a_gpu_beyond_the_last() -> None:
    with simulated_gpu(), pytest.raises(EngineError, match=r"Looked for cuda:3; found 1 GPU\(s\), cuda:0 to cuda:0"):
        find_device("cuda:3")


def test_engines_for_gpus_do_not_run_elsewhere(torch_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = replace(load_manifest(torch_bundle), backend="tensorrt", targets=("sm86", "sm89"))
    with pytest.raises(EngineError, match="Engines of tensorrt run on NVIDIA GPUs; asked for cpu"):
        device_for(manifest, "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a described H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with simulated_gpu(), pytest.raises(EngineError, match=r"built for sm86, sm89; found cuda:0.*--targets sm90`, or"):
        device_for(manifest, None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    with simulated_gpu():
        assert device_for(manifest, None) == GPU
