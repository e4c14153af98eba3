"""What a bundle at work takes of memory beside the files it maps, known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.cost import stage_costs
from x2sam_rt.model.language import CHUNK
from x2sam_rt.model.precision import Precision, dtype_of
from x2sam_rt.model.preprocess import tokens_per_pair, vision_size
from x2sam_rt.model.stage_contract import Sizes, StageContract, TensorSpec
from x2sam_rt.model.stages import STAGES, stage_contract
from x2sam_rt.runtime.bundle import LANGUAGE, Manifest
from x2sam_rt.runtime.engines import STAGE_WEIGHTS
from x2sam_rt.runtime.prompt_vision import PAIRS_AT_ONCE
from x2sam_rt.tasks.table import Media

# Libraries, their threads and what the allocator keeps.
PROCESS_BYTES = 3 * 2**29
_WORKSPACE = 2**28
_FLOAT = 4


@dataclass(frozen=True)
class AskedFrames:
    """What an instruction is answered on: frames of one size."""

    media: Media
    count: int
    height: int
    width: int


def loaded_bytes(manifest: Manifest) -> int:
    """Of a loaded bundle on a CPU before anything is asked: engines lay their weights out anew, the language side's
    stay mapped, and the key-value cache takes memory only as far as it is filled."""
    return PROCESS_BYTES + manifest.files[STAGE_WEIGHTS].size


def cache_bytes(config: ModelConfig, tokens: int, itemsize: int) -> int:
    """Keys and values of `tokens` tokens."""
    text = config.language["text_config"]
    per_token = int(2 * text["num_hidden_layers"] * text["num_key_value_heads"] * text["head_dim"])
    return per_token * tokens * itemsize


def answer_bytes(manifest: Manifest, shown: AskedFrames) -> int:
    """Most that one question with a known answer takes beside a loaded bundle, its share of the cache included."""
    config, words = manifest.model, CHUNK
    language, stages = (dtype_of(name).itemsize for name in (manifest.language_precision, manifest.precision))
    budget = config.video_budget if shown.media == "video" else config.image_budget
    target = vision_size(shown.height, shown.width, shown.count if shown.media == "video" else 1, budget)
    pairs = -(-shown.count // 2)
    tokens = pairs * tokens_per_pair(target) + words
    tower = _tower_bytes(config, min(pairs, PAIRS_AT_ONCE) * tokens_per_pair(target), stages)
    kept = _seen_bytes(config, tokens, stages) + cache_bytes(config, tokens, language)
    return _WORKSPACE + kept + max(tower, _prefill_bytes(config, tokens, language))


def _seen_bytes(config: ModelConfig, tokens: int, itemsize: int) -> int:
    """Visual tokens and their deep-stack levels, once by parts and once joined; the prompt's embeddings."""
    levels = 1 + len(config.language["vision_config"]["deepstack_visual_indexes"])
    return (2 * levels + 2) * tokens * config.language_dim * itemsize


def _tower_bytes(config: ModelConfig, tokens: int, itemsize: int) -> int:
    """tokens: of the pairs that go through at once. The frames as floats and as patches; a block's hidden states, its
    queries, keys and values, these turned in fp32, and its wider layer before and after the activation."""
    vision = config.language["vision_config"]
    patches = tokens * vision["spatial_merge_size"] ** 2
    pixels = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    hidden, wide = vision["hidden_size"], vision["intermediate_size"]
    return int(patches * (4 * pixels * _FLOAT + (5 * hidden + 2 * wide) * itemsize + 6 * hidden * _FLOAT))


def _prefill_bytes(config: ModelConfig, tokens: int, itemsize: int) -> int:
    """One chunk's hidden states, heads and wider layer, its mask and (where no kernel does without) its scores; the
    largest weight as the matrix product lays it out."""
    text, chunk = config.language["text_config"], min(CHUNK, tokens)
    hidden, wide, heads = text["hidden_size"], text["intermediate_size"], text["num_attention_heads"]
    rows = chunk * (6 * hidden + 3 * wide + 4 * heads * text["head_dim"])
    scores = chunk * tokens * (1 + heads) * _FLOAT
    return int((rows + hidden * wide) * itemsize + scores)


def frame_bytes(config: ModelConfig) -> int:
    """Most that a frame takes beside a loaded bundle: the memory bank, and for every stage its widest layer on the
    finest map, before and after the activation, with the maps it reads and writes. Attention goes piece by piece."""
    tokens = sum(side**2 for side in config.grids)
    wide = (
        4 * config.mask_encoder.embed_dims[0],
        config.pixel_decoder.feedforward_dim,
        config.memory.attention_feedforward_dim,
        config.memory.fuser_feedforward_dim,
    )
    stages = sum(2 * layer + 4 * config.dim for layer in wide)
    masks = 4 * config.mask_decoder.queries * config.grids[-1] ** 2
    bank = config.memory.slots * len(config.grids) * config.slot_tokens * config.dim
    return _WORKSPACE + _FLOAT * (tokens * stages + masks + bank)


_FRAME_STAGES = tuple(name for name in STAGES if name != "vision_encoder")
# Of a prompt: the panoptic task's categories, and the tokens of a long question.
_PROMPT: Sizes = {"conditions": 134, "tokens": 40}


@dataclass(frozen=True)
class GpuFrameNeeds:
    """Bytes on a GPU that PyTorch's stages take for one stream's frames, by stage: weights; working, most that is held
    at once beside weights and buffers. buffers: the stream's own, its bank and the features of a frame ahead among
    them. Counted from shapes: what a kernel needs within, and the size of what is asked for, come on top."""

    weights: dict[str, int]
    working: dict[str, int]
    buffers: int

    @property
    def recorded(self) -> int:
        """Working memory that recorded graphs keep: the encoder may run beside the other stages, which take turns."""
        encoder, *others = (self.working[name] for name in _FRAME_STAGES)
        return encoder + max(others)

    @property
    def peak(self) -> int:
        return sum(self.weights.values()) + self.buffers + self.recorded


def gpu_frame_needs(config: ModelConfig, precision: Precision) -> GpuFrameNeeds:
    """With a full memory. precision: of the stages. Nothing is loaded or run."""
    dtype, sizes = dtype_of(precision), {**_PROMPT, "slots": config.memory.slots}
    costs = stage_costs(config, _FRAME_STAGES, dtype, sizes)
    buffers = _stream_buffers({name: stage_contract(name, config, dtype) for name in _FRAME_STAGES})
    return GpuFrameNeeds(
        weights={name: cost.weight_bytes for name, cost in costs.items()},
        working={name: cost.working_bytes for name, cost in costs.items()},
        buffers=sum(_spec_bytes(spec, sizes) for spec in buffers),
    )


def _stream_buffers(stages: dict[str, StageContract]) -> tuple[TensorSpec, ...]:
    """What `Pipeline` takes: features twice, since those of a frame ahead have a place of their own, as the slot has
    that is being written."""
    encoder, attention, decoder, memory = (stages[name] for name in _FRAME_STAGES)
    bank = (attention.input("memory"), *memory.outputs)
    return *encoder.inputs, *encoder.outputs, *encoder.outputs, *bank, *attention.outputs, *decoder.outputs


def _spec_bytes(spec: TensorSpec, sizes: Sizes) -> int:
    return prod(spec.sized(sizes)) * spec.torch_dtype.itemsize


def language_bytes(manifest: Manifest) -> int:
    """Of the language side's weights."""
    shards = (name for name in manifest.files if name.startswith(f"{LANGUAGE}/") and name.endswith(".safetensors"))
    return sum(manifest.files[name].size for name in shards)


def free_memory() -> int | None:
    """Bytes this process may take: what the system can free, at most what its control group leaves. None: unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    known = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()) != "max":
        known.append(int(limit) - int((group / "memory.current").read_text()))
    return min(known, default=None)
