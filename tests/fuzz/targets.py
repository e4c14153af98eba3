"""What is fuzzed. A target takes any bytes; it returns, or raises one of the errors that are promised."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import media as films
import numpy as np

from x2sam_rt.config import ModelConfig
from x2sam_rt.documents import parse_object
from x2sam_rt.errors import X2SamError
from x2sam_rt.media.rle import decode_mask, encode_mask
from x2sam_rt.model.checkpoint.files import read_safetensors, read_tensor_file, tensor_files
from x2sam_rt.model.checkpoint.published import PUBLISHED, is_published_config, read_published_config
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.runtime.bundle import BundleFiles, parse_manifest
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import parse_region
from x2sam_rt.tasks.table import DEFAULT_WORDING, TASKS

FIXTURES = Path(__file__).parents[1] / "fixtures"
TOKENIZER = FIXTURES / "random_toy" / "tokenizer" / "tokenizer.json"
_ROWS = 600


def as_objects(data: bytes) -> int:
    """Bytes that an input needs as objects of Python: the costliest JSON, objects in a list, takes 36 for each."""
    return 40 * len(data)


def as_tensors(data: bytes) -> int:
    """Tensors lie in the file; its names become objects."""
    return len(data) + as_objects(data)


@dataclass(frozen=True)
class Target:
    """run: raises `allowed` errors only. seeds: what is mutated, beside the corpus. documents: they are JSON. need:
    bytes of memory that an input honestly needs: its own, and those of what it declares, within the limits."""

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    allowed: tuple[type[Exception], ...] = (X2SamError,)
    documents: bool = True
    need: Callable[[bytes], int] = as_objects


def manifest(data: bytes) -> None:
    folder = Path("bundle")
    BundleFiles(folder, parse_manifest(data, folder).files)


def config(data: bytes) -> None:
    document = parse_object(data, "config")
    read = read_published_config if is_published_config(document) else ModelConfig.from_json
    made = read(document)
    assert made.least_numbers > 0
    assert ModelConfig.from_json(json.loads(json.dumps(made.to_json()))) == made


def tokenizer(data: bytes) -> None:
    made = Tokenizer.parse(data, _ROWS, "tokenizer")
    ids = made.encode("the red <SEG> circle, \u00e9\u0301 \U0001f600 and  two\n")
    assert all(0 <= number < _ROWS for number in ids)
    made.decode_marked(range(_ROWS))


def wording(data: bytes) -> None:
    words = DEFAULT_WORDING.parsed(data, "wording")
    for instruction in (Instruction(phrases=("dog",)), Instruction("chat", question="What?"), Instruction("gcg")):
        assert len(instruction.question_text("video", words)) < 100 + len(data)
        instruction.answer_text(words)


_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


def _file(name: str, data: bytes) -> Path:
    path = Path(_FOLDER.name) / name
    path.write_bytes(data)
    return path


def safetensors(data: bytes) -> None:
    for tensor in read_safetensors(_file("model.safetensors", data), "a file").values():
        tensor.sum()


def torch_file(data: bytes) -> None:
    for tensor in read_tensor_file(_file("model.bin", data)).values():
        tensor.sum()


def index(data: bytes) -> None:
    files = tensor_files(_file("model.safetensors.index.json", data))
    assert all(file.parent == Path(_FOLDER.name) for file in files)


def region(data: bytes) -> None:
    prompt = parse_region(data.decode("utf-8", "surrogateescape"))
    assert prompt.mask(96, 128).shape == (96, 128)


def prompt(data: bytes) -> None:
    """The first byte chooses the task, the rest are its texts."""
    name = list(TASKS)[(data[0] if data else 0) % len(TASKS)]
    text = data[1:].decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")
    ids, harmless = _question(name, text), _question(name, text.replace("<", "("))
    assert _marks(ids) == _marks(harmless), "words make no marks, whatever they spell"
    assert len(ids) < 4096 + 4 * len(data)


def _question(name: str, text: str) -> list[int]:
    texts, takes = tuple(text.split("\0")), TASKS[name].takes
    instruction = Instruction(
        name,
        phrases=texts if "phrases" in takes else (),
        things=texts[:1] if "things" in takes else (),
        stuff=texts[1:] if "stuff" in takes else (),
        question=text if "question" in takes else None,
        answer=texts[-1] + "<SEG>" if len(texts) > 1 else None,
    )
    return _tokenizer().encode_marked(instruction.question_text(TASKS[name].media[0], DEFAULT_WORDING))


def _marks(ids: list[int]) -> list[int]:
    tokenizer = _tokenizer()
    special = (tokenizer.seg, tokenizer.phrase_start, tokenizer.phrase_end, tokenizer.im_start, tokenizer.im_end)
    return [ids.count(mark) for mark in (*special, tokenizer.vision_start, tokenizer.vision_end)]


def run_lengths(data: bytes) -> None:
    """Two bytes of size, then packed counts; or a JSON list of counts."""
    height, width = (data[0] % 32 + 1, data[1] % 32 + 1) if len(data) > 1 else (1, 1)
    text = data[2:].decode("latin-1")
    counts = json.loads(text) if text.startswith("[") else text
    mask = decode_mask({"size": [height, width], "counts": counts}, height, width)
    assert np.array_equal(decode_mask(encode_mask(mask), height, width), mask)


_made: list[Tokenizer] = []


def _tokenizer() -> Tokenizer:
    if not _made:
        _made.append(Tokenizer.load(TOKENIZER.parent, 10_000))
    return _made[0]


def media(data: bytes) -> None:
    films.decode(_file(f"media{films.kind(data)}", data[1:]))


def _small_tokenizer() -> bytes:
    document = json.loads(TOKENIZER.read_text())
    document["model"]["vocab"] = {k: v for k, v in document["model"]["vocab"].items() if v < 300}
    document["model"]["merges"] = document["model"]["merges"][:8]
    return json.dumps(document).encode()


def _saved(suffix: str) -> list[bytes]:
    import torch
    from safetensors.torch import save

    tensors = {f"layers.{number}.weight": torch.randn(2, 3) for number in range(2)}
    if suffix == ".safetensors":
        return [save(tensors), save({"a": torch.zeros((), dtype=torch.bfloat16)})]
    path, found = Path(_FOLDER.name) / "seed.bin", []
    for nested, zipped in ((False, True), (True, True), (False, False)):
        torch.save({"state_dict": tensors} if nested else tensors, path, _use_new_zipfile_serialization=zipped)
        found.append(path.read_bytes())
    return found


def _run_length_seeds() -> list[bytes]:
    mask = np.zeros((5, 7), dtype=bool)
    mask[1:3, 2:6] = True
    return [bytes([4, 6]) + encode_mask(mask)["counts"].encode(), bytes([1, 1]) + b"[1, 2, 1]", bytes([0, 0]) + b"1"]


def _manifest_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted((FIXTURES / "bundles").glob("*/manifest.json"))]


def _config_seeds() -> list[bytes]:
    ours = [path.read_bytes() for path in (FIXTURES / "random_toy/config.json", FIXTURES / "toy_lora/config.json")]
    return [*ours, json.dumps(PUBLISHED.to_json()).encode()]


def _wording_seeds() -> list[bytes]:
    return [json.dumps({name: asdict(words) for name, words in DEFAULT_WORDING.tasks.items()}).encode()]


def _prompt_seeds() -> list[bytes]:
    return [b"\1the dog\0<p>a boy</p> <SEG>", b"\0what?", "\2катя\0犬".encode()]


_MALFORMED = (ValueError, KeyError, TypeError)  # as `decode_mask` promises
TARGETS = {
    "manifest": Target(manifest, _manifest_seeds),
    "config": Target(config, _config_seeds),
    "tokenizer": Target(tokenizer, lambda: [_small_tokenizer()]),
    "wording": Target(wording, _wording_seeds),
    "index": Target(index, lambda: [b'{"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "m.bin"}}']),
    "safetensors": Target(safetensors, lambda: _saved(".safetensors"), documents=False, need=as_tensors),
    "torch_file": Target(torch_file, lambda: _saved(".bin"), documents=False, need=as_tensors),
    "region": Target(
        region,
        lambda: [b"point:40,60@3", b"box:20,20,90,80@2", b"scribble:10,10;40,30;70,20", b"mask:m.png@1"],
        documents=False,
    ),
    "prompt": Target(prompt, _prompt_seeds, documents=False),
    "run_lengths": Target(run_lengths, _run_length_seeds, (*_MALFORMED, RecursionError), documents=False),
    "media": Target(media, films.seeds, documents=False, need=films.need),
}
