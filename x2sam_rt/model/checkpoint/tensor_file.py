"""Safetensors files written tensor by tensor, so that the memory they take is one tensor's, not the file's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from x2sam_rt.errors import CheckpointError

SHARD_BYTES = 2 * 10**9
INDEX = "model.safetensors.index.json"
_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_PIECE = 2**22  # numbers that are cast, checked and written at once
OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class TensorToWrite:
    """read: gives the tensor, of any floating type; called once, when its turn comes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_tensors(tensors: Mapping[str, TensorToWrite], path: Path, on_bytes: OnBytes = lambda written: None) -> None:
    """One safetensors file, byte for byte what `safetensors.torch.save_file` writes. on_bytes: told of every piece.

    Raises CheckpointError for a tensor with NaN or infinity, OSError when the disk cannot take it.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    with path.open("wb") as stream:
        stream.write(_header({name: tensors[name] for name in order}))
        for name in order:
            for piece in _pieces(name, tensors[name]):
                _write(piece, stream)
                on_bytes(piece.nbytes)


def write_state(tensors: Mapping[str, Tensor], path: Path) -> None:
    """As `write_tensors`, of tensors that are there."""
    write_tensors({n: TensorToWrite(tuple(t.shape), t.dtype, partial(_same, t)) for n, t in tensors.items()}, path)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def write_shards(tensors: Mapping[str, TensorToWrite], folder: Path, on_bytes: OnBytes = lambda written: None) -> None:
    """A folder in the hub's form: `model.safetensors`, or shards of at most SHARD_BYTES and their index (a larger
    tensor is a shard by itself). Raises as `write_tensors`."""
    shards = list(_shards(tensors))
    if len(shards) == 1:
        write_tensors(shards[0], folder / "model.safetensors", on_bytes)
        return
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards, strict=True):
        write_tensors(shard, folder / file, on_bytes)
    index = {
        "metadata": {"total_size": sum(tensor.num_bytes for tensor in tensors.values())},
        "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")


def _shards(tensors: Mapping[str, TensorToWrite]) -> Iterator[dict[str, TensorToWrite]]:
    shard: dict[str, TensorToWrite] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.num_bytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.num_bytes
    yield shard


def _header(tensors: Mapping[str, TensorToWrite]) -> bytes:
    """Length of the JSON as 8 bytes, the JSON, spaces up to a multiple of 8 (the format's own rules)."""
    entries, start = {}, 0
    for name, tensor in tensors.items():
        stop = start + tensor.num_bytes
        entries[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(name: str, tensor: TensorToWrite) -> Iterator[Tensor]:
    value = tensor.read()
    assert tuple(value.shape) == tensor.shape, f"{name}: {tuple(value.shape)}, announced as {tensor.shape}"
    for part in torch.split(value.reshape(-1), _PIECE):
        piece = part.to(tensor.dtype)
        if piece.numel() and not all(bool(extreme.isfinite()) for extreme in piece.aminmax()):  # NaN is both
            raise CheckpointError(
                f"Tensor {name} holds NaN or infinity, in the file or once it is {_TYPES[tensor.dtype]}; wanted finite "
                "weights. Export another checkpoint, or in another precision."
            )
        yield piece


def _write(piece: Tensor, stream: BinaryIO) -> None:
    stream.write(piece.view(torch.uint8).numpy().data)
