"""Files from strangers: whatever they hold, loading them ends in a named error within a second of work, or well.

`python -m pytest tests/test_untrusted.py --every` takes every damaged document; without it a sample is taken, the same
one every time.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import torch
from hostile import damaged, outcome
from recordings import FIXTURES, RANDOM_TOY
from safetensors.torch import load_file, save_file

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import BundleError, CheckpointError, ConfigError, EngineError, PromptError
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.model.checkpoint.published import read_published_config
from x2sam_rt.model.checkpoint.tensor_file import INDEX
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.runtime.bundle import MANIFEST, WORDING, file_record, read_manifest
from x2sam_rt.runtime.engines import STAGE_WEIGHTS
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.tasks.table import DEFAULT_WORDING

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))

from limits import peak_alone

LORA = FIXTURES / "toy_lora"
TOKENIZER = RANDOM_TOY / "tokenizer"
Sampled = Callable[[Any, int], list[tuple[str, Any]]]


@pytest.fixture(scope="module")
def sampled(request: pytest.FixtureRequest) -> Sampled:
    def sample(document: Any, count: int) -> list[tuple[str, Any]]:
        cases = list(damaged(document))
        every = request.config.getoption("--every")
        return cases if every else random.Random(0).sample(cases, min(count, len(cases)))

    return sample


@pytest.fixture
def bundle(torch_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(torch_bundle, tmp_path / "bundle"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RANDOM_TOY, tmp_path / "checkpoint"))


def load(bundle: Path) -> None:
    Runtime.load(bundle).close()


def relist(bundle: Path, *names: str) -> None:
    """Makes the manifest tell what the files are now: of a bundle made by an attacker every hash is right."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    for name in names:
        manifest["files"][name] = asdict(file_record(bundle / name))
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def test_manifests(bundle: Path, sampled: Sampled) -> None:
    outcomes, path = Counter[str](), bundle / MANIFEST
    load(bundle)  # what is imported at first use is no work of a file
    for what, document in sampled(json.loads(path.read_text()), 250):
        path.write_text(json.dumps(document))
        try:
            outcomes[outcome(lambda: read_manifest(bundle))] += 1
            if sum(outcomes.values()) % 10 == 0:  # what passes the manifest's own checks is loaded, too
                outcomes[outcome(lambda: load(bundle))] += 1
        except BaseException as error:
            raise AssertionError(f"{what}: {error!r}") from error
    assert set(outcomes) <= {"BundleError", "ConfigError", "EngineError", "CheckpointError", "done"}


def test_configurations(sampled: Sampled) -> None:
    ours = json.loads((RANDOM_TOY / "config.json").read_text())
    published = json.loads((LORA / "config.json").read_text())
    for read, document in ((ModelConfig.from_json, ours), (read_published_config, published)):
        for what, changed in sampled(document, 1500):
            try:
                found = outcome(lambda read=read, changed=changed: read(changed))  # type: ignore[misc]
            except BaseException as error:
                raise AssertionError(f"{what}: {error!r}") from error
            assert found in {"ConfigError", "done"}, what


def test_configurations_beside_a_checkpoint(checkpoint: Path, sampled: Sampled) -> None:
    path = checkpoint / "config.json"
    load_checkpoint(checkpoint)
    for what, changed in sampled(json.loads(path.read_text()), 40):
        path.write_text(json.dumps(changed))
        try:
            outcome(lambda: load_checkpoint(checkpoint))
        except BaseException as error:
            raise AssertionError(f"{what}: {error!r}") from error


@pytest.mark.parametrize(
    "change",
    [
        {"memory": {"slots": 10**9}},
        {"pixel_decoder": {"layers": 10**7}},
        {"mask_decoder": {"heads": 0}},
        {"mask_decoder": {"queries": 10**7}},
        {"image_size": 2**26},
        {"language": {"text_config": {"num_hidden_layers": 512}}},
        {"language": {"text_config": {"hidden_size": 2**18, "intermediate_size": 2**18}}},
        {"language": {"vision_config": {"depth": 512}}},
        {"image_budget": {"max_pixels": 10**18}},
    ],
    ids=lambda change: json.dumps(change),
)
def test_sizes_that_no_file_holds(checkpoint: Path, change: dict[str, Any]) -> None:
    def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        return one | {k: merged(one[k], v) if isinstance(v, dict) else v for k, v in other.items()}

    path = checkpoint / "config.json"
    load_checkpoint(checkpoint)
    path.write_text(json.dumps(merged(json.loads(path.read_text()), change)))
    assert outcome(lambda: load_checkpoint(checkpoint)) in {"ConfigError", "CheckpointError"}
    if Path("/proc/self/clear_refs").exists():
        taken = peak_alone(lambda: outcome(lambda: load_checkpoint(checkpoint)))
        assert taken < 32 * 2**20, f"{taken:,} bytes for sizes that no file holds"


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"image_size": ' + b"9" * 5000 + b"}",
        b'{"image_size": NaN}',
        b'{"image_size": 1e999}',
        b'{"image_size": 1, "image_size": 2}',
        b'{"\\ud800": 1}',
        b'{"a": "\\u001b]0;owned\\u0007"}',
        b"\xff\xfe{}",
        b"[]",
        b"{}",
        b" " * 5_000_000 + b"{}",
    ],
    ids=lambda content: content[:24],
)
def test_no_json(checkpoint: Path, bundle: Path, content: bytes) -> None:
    (checkpoint / "config.json").write_bytes(content)
    assert outcome(lambda: load_checkpoint(checkpoint)) == "ConfigError"
    (bundle / MANIFEST).write_bytes(content)
    assert outcome(lambda: load(bundle)) == "BundleError"
    (bundle / WORDING).write_bytes(content)
    assert outcome(lambda: DEFAULT_WORDING.parsed(content, "wording")) in {"ConfigError", "done"}


def test_a_tensor_in_two_shards(bundle: Path, checkpoint: Path) -> None:
    """Which of the two counts would be for the order of their names to say."""
    shard = bundle / "language" / "model.safetensors"
    name = next(iter(load_file(shard)))
    save_file({name: load_file(shard)[name]}, shard.with_name("more.safetensors"))
    relist(bundle, "language/more.safetensors")
    with pytest.raises(BundleError, match=f"more.safetensors: '{name}' is in another shard too"):
        load(bundle)
    whole = checkpoint / "checkpoint.safetensors"
    save_file({name: load_file(whole)[name]}, checkpoint / "more.safetensors")
    (checkpoint / INDEX).write_text(json.dumps({"weight_map": {"a": whole.name, "b": "more.safetensors"}}))
    with pytest.raises(CheckpointError, match=f"more.safetensors: '{name}' is in another shard too"):
        load_checkpoint(checkpoint / INDEX, config=checkpoint / "config.json", tokenizer=TOKENIZER)


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}'])
def test_indexes(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "checkpoint.safetensors").unlink()
    (checkpoint / INDEX).write_bytes(content)
    with pytest.raises((CheckpointError, ConfigError)):
        load_checkpoint(checkpoint)


def safetensors(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_headers_of_safetensors(checkpoint: Path, sampled: Sampled) -> None:
    path = checkpoint / "checkpoint.safetensors"
    load_checkpoint(checkpoint)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    names = [*list(header)[:2], "vlm.model.language_model.embed_tokens.weight", "segmentor.no_memory_embedding"]
    few = {name: header[name] for name in names}
    for what, changed in sampled(few, 60):
        path.write_bytes(safetensors(header | changed if isinstance(changed, dict) else changed, data))
        try:
            found = outcome(lambda: load_checkpoint(checkpoint))
        except BaseException as error:
            raise AssertionError(f"{what}: {error!r}") from error
        assert found in {"CheckpointError", "ConfigError", "done"}, what
    for odd in (b"", b"{}", b"{" * 10_000, b'{"a":' * 10_000, 2**40):
        path.write_bytes(odd.to_bytes(8, "little") if isinstance(odd, int) else safetensors(odd, data))
        assert outcome(lambda: load_checkpoint(checkpoint)) in {"CheckpointError", "ConfigError"}


def test_bytes_of_torch_files(tmp_path: Path) -> None:
    """Mutated anywhere, the pickle in front most of all."""
    path, rng = tmp_path / "pytorch_model.bin", random.Random(1)
    tensors = {f"layer.{number}.weight": torch.randn(3, 5) for number in range(8)}
    torch.save(tensors, path)
    whole = path.read_bytes()
    for _ in range(600):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            content[int(rng.random() ** 2 * len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice([len(content), len(content), rng.randrange(len(content))])])
        assert outcome(lambda: load_checkpoint(path, tokenizer=TOKENIZER)) in {"CheckpointError", "ConfigError"}


def test_tensors_that_are_no_weights(checkpoint: Path, tmp_path: Path) -> None:
    """Integers, truth values and complex numbers are not cast; what is not stored is not there."""
    tensors, name = load_file(checkpoint / "checkpoint.safetensors"), "segmentor.no_memory_embedding"
    wanted = tensors[name]
    odd = {
        "int64": wanted.long(),
        "bool": wanted.bool(),
        "uint8": wanted.to(torch.uint8),
        "complex": wanted.to(torch.complex64),
        "0-d": torch.zeros(()),
        "expanded": torch.zeros(1).expand(10**9),
        "sparse": torch.zeros(3, 3).to_sparse(),
        "fp8": wanted.to(torch.float8_e4m3fn),
    }
    for what, value in odd.items():
        path = tmp_path / "odd.bin"
        torch.save({**tensors, name: value}, path)
        config = checkpoint / "config.json"
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(path, config=config, tokenizer=TOKENIZER)
        if value.layout is torch.strided and what != "expanded":
            save_file({**tensors, name: value}, checkpoint / "checkpoint.safetensors")
            with pytest.raises(CheckpointError, match=name):
                load_checkpoint(checkpoint)
    for key in ("vlm.model.language_model.embed_tokens.weight", "vlm.lm_head.weight"):
        torch.save({**tensors, key: torch.zeros(())}, tmp_path / "odd.bin")
        with pytest.raises((CheckpointError, ConfigError)):
            load_checkpoint(tmp_path / "odd.bin", config=config, tokenizer=TOKENIZER)


def test_a_packed_torch_file_is_refused(tmp_path: Path) -> None:
    """A thousandth of its size may lie on the disk."""
    from zipfile import ZIP_DEFLATED, ZipFile

    torch.save({"weight": torch.zeros(10**6)}, tmp_path / "plain.bin")
    with ZipFile(tmp_path / "plain.bin") as plain, ZipFile(tmp_path / "packed.bin", "w", ZIP_DEFLATED) as packed:
        for member in plain.namelist():
            packed.writestr(member, plain.read(member))
    with pytest.raises(CheckpointError, match="compressed"):
        load_checkpoint(tmp_path / "packed.bin")


def test_tokenizers(sampled: Sampled) -> None:
    document = json.loads((TOKENIZER / "tokenizer.json").read_text())
    document["model"]["vocab"] = {k: v for k, v in document["model"]["vocab"].items() if v < 300}
    document["model"]["merges"] = document["model"]["merges"][:2]
    for what, changed in sampled(document, 500):
        content = json.dumps(changed).encode()

        def use(content: bytes = content) -> None:
            tokenizer = Tokenizer.parse(content, 600, "a file")
            ids = tokenizer.encode("the red <SEG> circle\ud7ff\u0301 \U0001f600" * 20)
            assert not ids or max(ids) < 600
            tokenizer.decode(range(600))

        try:
            assert outcome(use) in {"CheckpointError", "done"}
        except BaseException as error:
            raise AssertionError(f"{what}: {error!r}") from error


def test_tokenizers_neither_backtrack_nor_pad() -> None:
    document = json.loads((TOKENIZER / "tokenizer.json").read_text())
    slow = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    with pytest.raises(CheckpointError, match="may never end"):
        Tokenizer.parse(json.dumps(document | {"pre_tokenizer": slow}).encode(), 10_000, "a file")
    padding = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    content = json.dumps(document | {"padding": padding | {"pad_to_multiple_of": None}}).encode()
    padded = Tokenizer.parse(content, 10_000, "a file")
    assert len(padded.encode("dog")) < 10


def test_tokenizers_that_know_no_unknown_word() -> None:
    """They would fail at the first word they do not know, with the library's plain exception."""
    document = json.loads((TOKENIZER / "tokenizer.json").read_text())
    words = {"type": "WordLevel", "vocab": document["model"]["vocab"], "unk_token": "[UNK]"}
    for model in (words, document["model"] | {"unk_token": "[UNK]"}):
        with pytest.raises(CheckpointError, match="unknown token that it lacks"):
            Tokenizer.parse(json.dumps(document | {"model": model}).encode(), 10_000, "a file")


def test_ids_beyond_the_table() -> None:
    with pytest.raises(CheckpointError, match="embedding table has 100 rows"):
        Tokenizer.load(TOKENIZER, 100)


def test_wordings(sampled: Sampled) -> None:
    document = {name: asdict(entry) for name, entry in DEFAULT_WORDING.tasks.items()}
    for what, changed in sampled(document, 600):
        content = json.dumps(changed).encode()
        found = outcome(lambda content=content: DEFAULT_WORDING.parsed(content, "a file"))  # type: ignore[misc]
        assert found in {"ConfigError", "done"}, what


# --- bundles that reach outside, or whose hashes are right and whose contents are not


def test_nothing_but_listed_regular_files_inside_is_used(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes((bundle / WORDING).read_bytes())
    manifest = json.loads((bundle / MANIFEST).read_text())
    for name in ("../outside", str(outside), "stages/../../outside", "a//b", "a\0b", ".", "", "x" * 300):
        changed = {**manifest, "files": {**manifest["files"], name: manifest["files"][WORDING]}}
        (bundle / MANIFEST).write_text(json.dumps(changed))
        with pytest.raises(BundleError):
            load(bundle)
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    (bundle / WORDING).unlink()
    (bundle / WORDING).symlink_to(outside)
    with pytest.raises(BundleError, match="links in a bundle are not followed"):
        load(bundle)
    (bundle / WORDING).unlink()
    os.mkfifo(bundle / WORDING)
    with pytest.raises(BundleError, match="no regular file"):
        load(bundle)
    (bundle / WORDING).unlink()
    (bundle / WORDING).mkdir()
    with pytest.raises(BundleError, match="no regular file"):
        load(bundle)
    (bundle / WORDING).rmdir()
    shutil.copy(outside, bundle / WORDING)
    shutil.move(bundle / "language", tmp_path / "language")
    (bundle / "language").symlink_to(tmp_path / "language")
    with pytest.raises(BundleError, match="links in a bundle are not followed"):
        load(bundle)


@pytest.mark.parametrize("name", [WORDING, STAGE_WEIGHTS, "language/tokenizer/tokenizer.json"])
def test_what_is_not_listed_is_not_used(bundle: Path, name: str) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    del manifest["files"][name]
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="the manifest does not list it"):
        load(bundle)


def test_weights_of_another_type_or_shape(bundle: Path) -> None:
    """An attacker's own bundle: every hash is right."""
    path = bundle / STAGE_WEIGHTS
    tensors = load_file(path)
    name = "segmentor.no_memory_embedding"
    for value in (tensors[name].double(), tensors[name].bfloat16(), tensors[name][..., :5].clone(), torch.zeros(())):
        save_file({**tensors, name: value}, path)
        relist(bundle, STAGE_WEIGHTS)
        with pytest.raises(BundleError, match=name):
            load(bundle)


def test_engines_of_other_tensors(onnx_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(onnx_bundle, tmp_path / "bundle"))
    decoder, encoder = "stages/mask_decoder.onnx", "stages/memory_encoder.onnx"
    shutil.copy(bundle / encoder, bundle / decoder)
    relist(bundle, decoder)
    with pytest.raises(EngineError, match=r"mask_decoder\.onnx: tensor .* wanted"):
        load(bundle)
    for content in (b"", b"\0" * 100, b"\x08\x0a" * 1000):
        (bundle / decoder).write_bytes(content)
        relist(bundle, decoder)
        with pytest.raises(EngineError, match=r"cannot load this stage"):
            load(bundle)


def test_weights_beside_a_graph_are_those_that_were_checked(onnx_bundle: Path, tmp_path: Path) -> None:
    import onnx

    bundle = Path(shutil.copytree(onnx_bundle, tmp_path / "bundle"))
    name = "stages/mask_decoder.onnx"
    model = onnx.load(bundle / name)
    onnx.save(model, bundle / name, save_as_external_data=True, location="mask_decoder.onnx.data")
    relist(bundle, name, f"{name}.data")
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    maps = []
    for folder in (onnx_bundle, bundle):
        with Runtime.load(folder) as runtime, runtime.stream("the red circle") as session:
            maps.append(session.step(frame).segmentation.map)
    assert np.array_equal(*maps)
    model = onnx.load(onnx_bundle / name)
    onnx.save(model, bundle / name, save_as_external_data=True, location="elsewhere.data")
    (bundle / "stages/elsewhere.data").rename(tmp_path / "elsewhere.data")
    relist(bundle, name)
    with pytest.raises(EngineError, match="cannot load this stage"):
        load(bundle)


def test_a_file_swapped_after_its_check_is_not_used(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name leads elsewhere as soon as the file is open: what was opened is hashed, and used."""
    from x2sam_rt.runtime import bundle as module

    copied = module._copy

    def swapping(*arguments: Any) -> str:
        digest = copied(*arguments)
        for name in (WORDING, STAGE_WEIGHTS):
            (bundle / name).unlink(missing_ok=True)
            (bundle / name).write_bytes(b"swapped")
        return digest

    files = module.BundleFiles(bundle, read_manifest(bundle).files)
    content = (bundle / WORDING).read_bytes()
    monkeypatch.setattr(module, "_copy", swapping)
    assert files.read(WORDING) == content
    with pytest.raises(BundleError, match="7 bytes, wanted"):
        files.read(STAGE_WEIGHTS)


def test_an_edited_wording_goes_in_by_its_own_way(bundle: Path, tmp_path: Path) -> None:
    words = json.loads((bundle / WORDING).read_text())
    words["referring"]["question"] = "Zeige mir {phrases}."
    (bundle / WORDING).write_text(json.dumps(words))
    with pytest.raises(BundleError, match=r"wording\.json: \d+ bytes, wanted"):
        load(bundle)
    shutil.move(bundle / WORDING, tmp_path / "german.json")
    relist_from = json.dumps({name: asdict(entry) for name, entry in DEFAULT_WORDING.tasks.items()}, indent=2)
    (bundle / WORDING).write_text(relist_from)
    relist(bundle, WORDING)
    with Runtime.load(bundle, wording=tmp_path / "german.json") as runtime:
        assert runtime.language._wording["referring"].question == "Zeige mir {phrases}."


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.usefixtures("no_network")
def test_loading_touches_no_network(bundle: Path, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    for part in (config["language"], config["language"]["text_config"], config["language"]["vision_config"]):
        part |= {
            "attn_implementation": "someone/kernels",
            "_attn_implementation": "someone/kernels",
            "experts_implementation": "someone/kernels",
            "auto_map": {"AutoModel": "someone/model--code.Model"},
            "quantization_config": {"quant_method": "awq"},
            "_name_or_path": "someone/model",
        }
    (checkpoint / "config.json").write_text(json.dumps(config))
    model = load_checkpoint(checkpoint).model
    assert "someone" not in json.dumps(model.config.to_json())
    assert "someone" not in model.vlm.config.to_json_string()
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["model"]["language"] |= {"attn_implementation": "someone/kernels"}
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    load(bundle)


@pytest.mark.parametrize("text", hostile.VALUES["half"] + "\udfff", ids=["high", "low"])
def test_half_characters_are_no_prompt(text: str) -> None:
    from x2sam_rt.tasks.instruction import Instruction, as_instruction

    with pytest.raises(PromptError, match="surrogate"):
        as_instruction(f"a {text} dog")
    with pytest.raises(PromptError, match="surrogate"):
        Instruction("reasoning", question=text)


@pytest.mark.parametrize(
    "kind", ["O", "U3", "S3", "datetime64[s]", "timedelta64[s]", "complex64", "int64", "bool", "V4"]
)
def test_frames_of_other_kinds(kind: str) -> None:
    from x2sam_rt.errors import FrameError
    from x2sam_rt.model.frame_layout import Layout, as_frame

    with pytest.raises(FrameError, match="wanted uint8"):
        as_frame(np.zeros((4, 5, 3), dtype=kind))
    if kind != "int64":
        with pytest.raises(FrameError, match="wanted numbers from 0 to 1"):
            as_frame(np.zeros((4, 5, 3), dtype=kind), Layout(white=1))


def test_a_text_longer_than_any_context() -> None:
    from x2sam_rt.tasks.instruction import as_instruction

    with pytest.raises(PromptError, match=r"2,000,000 characters"):
        as_instruction("x" * 2_000_000)


def test_a_cache_out_of_proportion(bundle: Path) -> None:
    """Of a length that the manifest names and no file holds; who asks for it gets it."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["model"]["image_budget"]["max_pixels"] = 2**30
    manifest["model"]["language"]["text_config"]["max_position_embeddings"] = 2**22
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"1,052,672 tokens .* Pass context="):
        load(bundle)
    Runtime.load(bundle, context=4096).close()
