"""Where a bundle runs: the device that was asked for, or why it cannot be had; and the streams of a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from x2sam_rt.errors import EngineError
from x2sam_rt.runtime.bundle import Manifest
from x2sam_rt.runtime.engines import find_backend

CPU = torch.device("cpu")
_ELSEWHERE = 'run a bundle on "cpu" that was exported with --engine onnxruntime or torch'


def find_device(name: str | torch.device) -> torch.device:
    """name: "cpu", "cuda" (the first GPU) or "cuda:1". Raises EngineError that says what was looked for and found."""
    device = _named(name)
    if device.type == "cpu":
        return CPU
    if not torch.cuda.is_available():
        raise EngineError(f"Looked for the NVIDIA GPU {device}; found none: {_what_is_missing()} Or {_ELSEWHERE}.")
    index, found = device.index or 0, torch.cuda.device_count()
    if index >= found:
        raise EngineError(f"Looked for {device}; found {found} GPU(s), cuda:0 to cuda:{found - 1}. Give one of them.")
    return torch.device("cuda", index)


def device_for(manifest: Manifest, name: str | torch.device | None) -> torch.device:
    """Where a bundle runs. name: as for `find_device`; None = its backend's own choice.

    Raises EngineError as `find_device`, for a CPU where the backend needs a GPU, and for a GPU that its engines were
    not built for.
    """
    backend = find_backend(manifest.backend)
    device = find_device(backend.home if name is None else name)
    if backend.needs_gpu and device.type == "cpu":
        raise EngineError(
            f"Engines of {backend.name} run on NVIDIA GPUs; asked for cpu. Leave the device out, or {_ELSEWHERE}."
        )
    if backend.needs_gpu:
        _check_target(manifest, device)
    return device


def _check_target(manifest: Manifest, device: torch.device) -> None:
    found = "sm{}{}".format(*torch.cuda.get_device_capability(device))
    if found not in manifest.targets:
        raise EngineError(
            f"The bundle's engines were built for {', '.join(manifest.targets)}; found {device}, "
            f"{torch.cuda.get_device_name(device)} ({found}). Export the checkpoint again with `x2sam-rt export "
            f"CHECKPOINT --engine {manifest.backend} --targets {found}`, or {_ELSEWHERE}."
        )


def wait_for(device: torch.device) -> None:
    """Returns when a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def current_device(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Within it, a GPU is the current one, for libraries that work on that one whatever they are given."""
    return contextlib.nullcontext() if device.type == "cpu" else torch.cuda.device(device)


class SideStream:
    """Work on a GPU beside that of the current stream, with which it shares memory; on a CPU, work as any other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Begins after what the current stream has to do so far; at the end the host waits until all is done."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            self._stream.synchronize()

    def hand_over(self, tensors: Iterable[Tensor]) -> None:
        """What was made here is used on the current stream from now on. When it is let go of, its memory is not given
        to this stream's next work before that stream has done what it had to do by then."""
        if self._stream is None:
            return
        for tensor in tensors:
            tensor.record_stream(torch.cuda.current_stream(self._device))


def on_current_stream(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """For another thread, in which the caller's current stream is then the current one."""
    if device.type == "cpu":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.current_stream(device))


def _named(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EngineError(f'There is no device {name!r}; wanted "cpu", "cuda" or "cuda:N".') from error
    if device.type not in ("cpu", "cuda"):
        raise EngineError(f'Nothing here runs on {device}; wanted "cpu", "cuda" or "cuda:N".')
    return device


def _what_is_missing() -> str:
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return (
            f"PyTorch {torch.__version__} here was built without CUDA. Install one that was "
            "(https://pytorch.org/get-started/locally)."
        )
    return (
        f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda} and sees no driver or no GPU. Check that "
        "`nvidia-smi` lists it, that its driver is new enough for that CUDA, and CUDA_VISIBLE_DEVICES."
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Without PyTorch's thread pool, for many small operations on a CPU, some milliseconds each at most.

    A second thread saves little of them, and where an engine's own threads or other programs keep the cores busy,
    waiting for it at the end of every operation costs more than it saves (`benchmarks/bench_preprocess.py`). The
    setting is the calling thread's own (OpenMP); it is put back.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
