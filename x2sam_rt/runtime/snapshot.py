"""A session at rest: what the next frames depend on, and its form as bytes.

A snapshot is a safetensors file. Its metadata name version and bundle, and hold the state as JSON, in which
`{"$tensor": name}` stands for a tensor and `{"$instruction": …}` for an instruction. A tensor that several places
share, as a frame that was seen last and asked about, is there once.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from x2sam_rt.documents import read_dataclass
from x2sam_rt.errors import ConfigError, SnapshotError
from x2sam_rt.model.prompt_encoder import PromptEmbeddings
from x2sam_rt.runtime.language import Answer
from x2sam_rt.runtime.memory_bank import BankState
from x2sam_rt.runtime.postprocess.state import RuleState
from x2sam_rt.runtime.stream_asker import AskerState
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.table import Media

SCHEMA = "x2sam-rt snapshot 1"
_TENSOR, _INSTRUCTION = "$tensor", "$instruction"
_MOST_FRAMES = 2**62  # numbers are int64 on their way through the engines
_MOST_JSON = 2**24  # bytes of that JSON, which takes many times as much once it is read
_HEADER = 8  # bytes that say how long the JSON behind them is


@dataclass(frozen=True, eq=False)
class StreamState:
    """next_frame: number of the frame that comes next. answer: in force, None before the first. rule: what its
    post-processing remembers, None where it has none. removed: ids that are not shown."""

    media: Media
    next_frame: int
    bank: BankState
    asker: AskerState
    answer: Answer | None
    rule: RuleState | None
    removed: tuple[int, ...] = ()

    def answer_on(self, device: torch.device, side: int) -> Answer | None:
        """The answer with its tensors there. side: S, of the segmentor's input. Raises SnapshotError for tensors of
        another kind than its instruction's."""
        answer = self.answer
        if answer is None:
            return None
        _check_answer(answer, side)
        embeddings, masks = answer.embeddings, answer.region_masks
        if embeddings is not None:
            embeddings = PromptEmbeddings(**{name: tensor.to(device) for name, tensor in vars(embeddings).items()})
        return replace(answer, embeddings=embeddings, region_masks=None if masks is None else masks.to(device))


def write_snapshot(state: StreamState, bundle: str) -> bytes:
    """bundle: SHA-256 of its manifest."""
    tensors, names = dict[str, Tensor](), dict[int, str]()

    def plain(value: object) -> object:
        if isinstance(value, Tensor):
            name = names.setdefault(id(value), str(len(names)))
            tensors[name] = value.cpu().contiguous()
            return {_TENSOR: name}
        if isinstance(value, Instruction):
            return {_INSTRUCTION: value.to_json()}
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}  # type: ignore[arg-type]

    text = json.dumps(state, default=plain, allow_nan=False)
    owned = {name: tensor.clone() if _is_part(tensor) else tensor for name, tensor in tensors.items()}
    return save(owned, {"schema": SCHEMA, "bundle": bundle, "state": text})


def read_snapshot(snapshot: bytes, bundle: str) -> StreamState:
    """What `write_snapshot` wrote. Takes memory for what is there, never for what it says is there.

    Raises SnapshotError for what is damaged, of another schema or bundle, or not in its types; PromptError or
    ConfigError where an instruction is none. Whether a session can have this state, `VideoSession.restore` finds.
    """
    tensors, metadata = _read(snapshot)
    if metadata.get("schema") != SCHEMA:
        raise SnapshotError(f"The snapshot is {metadata.get('schema')!r}; this version reads {SCHEMA!r}. Begin anew.")
    if metadata.get("bundle") != bundle:
        raise SnapshotError("The snapshot is of a session on another bundle; resume it with that one, or begin anew.")
    try:
        data = json.loads(metadata["state"], object_hook=lambda found: _ready(found, tensors))
        state = read_dataclass(StreamState, data, where="snapshot")
    except (KeyError, ValueError, TypeError, RecursionError, ConfigError) as error:
        raise SnapshotError(f"The snapshot holds no session's state: {error}. Begin a new session.") from error
    if not (0 <= state.next_frame < _MOST_FRAMES and 0 <= state.bank.written < _MOST_FRAMES):
        raise SnapshotError(f"Frame {state.next_frame} comes next, after {state.bank.written} were remembered.")
    return state


def _read(snapshot: bytes) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Tensors and metadata. Raises SnapshotError. The library checks that every tensor lies within the file."""
    length = int.from_bytes(snapshot[:_HEADER], "little")
    if length > _MOST_JSON:
        raise SnapshotError(f"Not a snapshot: {length} bytes of JSON; one has up to {_MOST_JSON}. Fetch it again.")
    try:
        tensors = load(snapshot)
        metadata = json.loads(snapshot[_HEADER : _HEADER + length])["__metadata__"]
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise SnapshotError(f"Not a snapshot, or a damaged one: {error}. Fetch it again.") from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point()):
        raise SnapshotError("The snapshot holds numbers that are not finite; a session of this state is lost.")
    # A byte that is neither 0 nor 1 would be a bool to some operations and none to others.
    sound = {name: t.view(torch.uint8) != 0 if t.dtype == torch.bool else t for name, t in tensors.items()}
    return sound, metadata


def _ready(found: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """What stands for a tensor or an instruction, as that."""
    if found.keys() == {_TENSOR}:
        return tensors[found[_TENSOR]]
    return Instruction.from_json(found[_INSTRUCTION]) if found.keys() == {_INSTRUCTION} else found


def _is_part(tensor: Tensor) -> bool:
    """Whether it shares memory that is larger than itself, which a file would not."""
    return tensor.untyped_storage().nbytes() != tensor.nbytes


def _check_answer(answer: Answer, side: int) -> None:
    """Raises SnapshotError. The shapes that engines take, they check themselves."""
    embeddings, masks, instruction = answer.embeddings, answer.region_masks, answer.instruction
    if (embeddings is not None) != instruction.row.draws_masks:
        raise SnapshotError(f"{instruction.row.name} with embeddings or none, against its kind.")
    conditions = len(answer.conditions)
    if embeddings is not None and not 0 < conditions < len(embeddings.conditions):
        raise SnapshotError(f"{conditions} conditions, {len(embeddings.conditions)} embeddings; wanted one more.")
    regions = len(instruction.regions)
    wanted = (regions, side, side) if regions else None
    found = None if masks is None else tuple(masks.shape)
    if found != wanted or (masks is not None and masks.dtype != torch.uint8):
        raise SnapshotError(f"The answer has region masks {found}; wanted {wanted}, uint8.")
    spans, length = answer.text.spans, len(answer.text.text)
    if not all(0 <= s.start <= s.end <= length and 0 <= s.label_id < conditions for s in spans):
        raise SnapshotError(f"A phrase lies outside the answer's {length} characters or {conditions} conditions.")
