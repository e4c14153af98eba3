"""What a model is: frozen configurations whose every number has a range; JSON in and out, unknown keys refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import isqrt
from typing import Annotated, Any, Literal

from x2sam_rt.documents import Range, check_fields, read_dataclass, shown
from x2sam_rt.errors import ConfigError

ResizeMode = Literal["stretch", "longest_side"]
Scale = Literal["low", "middle", "high"]
SCALES: tuple[Scale, ...] = ("low", "middle", "high")  # of the feature maps, by resolution: strides 16, 8, 4
NUM_SCALES = len(SCALES)
Turns = Literal["frames", "writes"]
# Far beyond any X2SAM, and small enough that nothing overflows or takes a second to refuse.
Depth = Annotated[int, Range(1, 512)]
Width = Annotated[int, Range(1, 2**18)]
Heads = Annotated[int, Range(1, 512)]
Pixels = Annotated[int, Range(1, 2**30)]
TokenId = Annotated[int, Range(0, 2**31)]
_HIERA_STAGES = 4
_MOST_STREAM_BYTES = 2**34


def _require(holds: bool, name: str, found: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {shown(found)}; it must be {wanted}. Correct it in the configuration.")


class _Checked:
    """Refuses values of other types and out of range, however it is made. Raises ConfigError."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class MaskEncoderConfig(_Checked):
    """SAM 2.1 Hiera trunk: one entry per stage."""

    embed_dims: Annotated[tuple[int, ...], Range(1, 2**16)]
    blocks: Annotated[tuple[int, ...], Range(1, 512)]
    heads: Annotated[tuple[int, ...], Range(1, 512)]
    windows: Annotated[tuple[int, ...], Range(1, 512)]
    global_blocks: Annotated[tuple[int, ...], Range(0, 2048)]
    window_grid: Annotated[tuple[int, int], Range(1, 512)] = (7, 7)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("embed_dims", "blocks", "heads", "windows"):
            entries = getattr(self, name)
            _require(len(entries) == _HIERA_STAGES, f"mask_encoder.{name}", entries, "one number for each of 4 stages")
        for dim, heads in zip(self.embed_dims, self.heads, strict=True):
            _require(dim % heads == 0, "mask_encoder.heads", heads, f"a divisor of its stage's embed_dims ({dim})")
        last = sum(self.blocks) - 1
        _require(max(self.global_blocks, default=0) <= last, "mask_encoder.global_blocks", self.global_blocks, "blocks")

    @property
    def region_dim(self) -> int:
        """Channels of the third stage's output, which region prompts are sampled from."""
        return self.embed_dims[2]


@dataclass(frozen=True)
class PixelDecoderConfig(_Checked):
    layers: Depth
    heads: Heads
    feedforward_dim: Width


@dataclass(frozen=True)
class MaskDecoderConfig(_Checked):
    layers: Depth
    heads: Heads
    feedforward_dim: Width
    queries: Annotated[int, Range(1, 4096)]


@dataclass(frozen=True)
class MemoryConfig(_Checked):
    """slots: frames the bank holds. The fuser is the memory encoder's stack of ConvNeXt-style blocks.

    The rest is as trained and published unless asked for, else an approximation. scales: those that look at the memory;
    the others keep the frame's own features. every: frames from one that is remembered to the next. reads: which frames
    look at the memory, all or those that are remembered; others are segmented as single images. gaps: what the age of a
    slot counts, the stream's frames or those that were remembered.
    """

    slots: Annotated[int, Range(1, 1024)]
    attention_layers: Depth
    attention_feedforward_dim: Width
    fuser_layers: Depth
    fuser_feedforward_dim: Width
    scales: tuple[Scale, ...] = SCALES
    every: Annotated[int, Range(1, 2**31)] = 1
    reads: Turns = "frames"
    gaps: Turns = "frames"

    def remembers(self, frame: int) -> bool:
        """frame: counted from any that was remembered."""
        return frame % self.every == 0

    def looks_back(self, frame: int) -> bool:
        """Whether a frame looks at the memory. frame: as for `remembers`."""
        return self.reads == "frames" or self.remembers(frame)

    @property
    def approximations(self) -> dict[str, str]:
        """What differs from the published model, by name."""
        found = {"scales": "+".join(self.scales), "every": str(self.every), "reads": self.reads, "gaps": self.gaps}
        exact = {"scales": "+".join(SCALES), "every": "1", "reads": "frames", "gaps": "frames"}
        return {name: value for name, value in found.items() if value != exact[name]}


@dataclass(frozen=True)
class PixelBudget(_Checked):
    """Pixels the visual tower may see, after the resize to multiples of 32: of an image, or of a whole video prompt."""

    min_pixels: Pixels
    max_pixels: Pixels

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.min_pixels <= self.max_pixels, "min_pixels", self.min_pixels, f"at most {self.max_pixels}")


@dataclass(frozen=True)
class RotaryConfig(_Checked):
    """Qwen3-VL's `rope_scaling`, or `rope_parameters` with the base in it. X2SAM is defined for "default" only."""

    rope_type: Literal["default"] = "default"
    rope_theta: Annotated[float, Range(1, 1e12)] | None = None
    mrope_section: Annotated[tuple[int, int, int], Range(1, 2048)] | None = None
    mrope_interleaved: Literal[True] = True


@dataclass(frozen=True)
class TextConfig(_Checked):
    """What of Qwen3-VL's `text_config` has a meaning here, with its own defaults; None is left to the library."""

    vocab_size: Annotated[int, Range(1, 2**22)]
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Depth
    num_attention_heads: Heads
    num_key_value_heads: Heads
    head_dim: Annotated[int, Range(2, 4096)]
    max_position_embeddings: Annotated[int, Range(1, 2**22)]
    rope_theta: Annotated[float, Range(1, 1e12)] | None = None
    rope_scaling: RotaryConfig | None = None
    rope_parameters: RotaryConfig | None = None
    hidden_act: Literal["silu"] = "silu"
    rms_norm_eps: Annotated[float, Range(0, 1)] = 1e-6
    attention_bias: bool = False
    tie_word_embeddings: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        heads = self.num_attention_heads
        _require(heads % self.num_key_value_heads == 0, "num_key_value_heads", self.num_key_value_heads, "a divisor")
        _require(self.head_dim % 2 == 0, "head_dim", self.head_dim, "even")
        for rotary in (self.rope_scaling, self.rope_parameters):
            section = None if rotary is None else rotary.mrope_section
            fits = section is None or 2 * sum(section) == self.head_dim
            _require(fits, "mrope_section", section, f"numbers that add up to half of head_dim ({self.head_dim})")


@dataclass(frozen=True)
class VisionConfig(_Checked):
    """What of Qwen3-VL's `vision_config` has a meaning here; what preprocessing fixes has one value."""

    depth: Depth
    hidden_size: Width
    intermediate_size: Width
    num_heads: Heads
    out_hidden_size: Width
    num_position_embeddings: Annotated[int, Range(1, 2**22)]
    deepstack_visual_indexes: Annotated[tuple[int, ...], Range(0, 511)]
    patch_size: Annotated[int, Range(16, 16)] = 16
    temporal_patch_size: Annotated[int, Range(2, 2)] = 2
    spatial_merge_size: Annotated[int, Range(2, 2)] = 2
    in_channels: Annotated[int, Range(3, 3)] = 3
    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        taps, cells = self.deepstack_visual_indexes, self.num_position_embeddings
        rising = all(one < other for one, other in pairwise((*taps, self.depth)))
        _require(bool(taps) and rising, "deepstack_visual_indexes", taps, f"rising places in {self.depth} layers")
        _require(self.hidden_size % (4 * self.num_heads) == 0, "num_heads", self.num_heads, "a quarter of a divisor")
        _require(isqrt(cells) ** 2 == cells, "num_position_embeddings", cells, "a square")


@dataclass(frozen=True)
class LanguageConfig(_Checked):
    """What of a Qwen3-VL `config.json` reaches transformers: nothing else does, so that no file chooses kernels,
    classes or code by a key that only the library knows."""

    text_config: TextConfig
    vision_config: VisionConfig
    tie_word_embeddings: bool = False
    image_token_id: TokenId | None = None
    video_token_id: TokenId | None = None
    vision_start_token_id: TokenId | None = None
    vision_end_token_id: TokenId | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        text, vision = self.text_config.hidden_size, self.vision_config.out_hidden_size
        _require(text == vision, "vision_config.out_hidden_size", vision, f"text_config.hidden_size ({text})")

    @classmethod
    def read(cls, data: object) -> LanguageConfig:
        return read_dataclass(cls, _known(cls, data), where="language")


def _known(cls: type, data: object) -> object:
    """A mapping's entries that a dataclass has fields for, with the fields' defaults; those of inner mappings too. null
    stands for an absent key where the default is None: for its own default the library wants the key gone."""
    if not isinstance(data, Mapping):
        return data
    fields = {f.name: f.default for f in dataclasses.fields(cls)}
    defaults = {name: value for name, value in fields.items() if value not in (None, dataclasses.MISSING)}
    given = {key: value for key, value in data.items() if key in fields}
    given = {key: value for key, value in given.items() if value is not None or fields[key] is not None}
    return defaults | {key: _inner_known(key, value) for key, value in given.items()}


def _inner_known(key: str, value: object) -> object:
    inner = {"text_config": TextConfig, "vision_config": VisionConfig}
    if key in inner:
        return _known(inner[key], value)
    if isinstance(value, Mapping):  # of rotary positions, where an unknown key is refused
        return {name: entry for name, entry in value.items() if entry is not None}
    return value


@dataclass(frozen=True)
class ModelConfig(_Checked):
    """A whole X2SAM. `language` is the Qwen3-VL configuration as its own `config.json` holds it, as far as
    `LanguageConfig` knows it.

    image_size: side S of the segmentor's square input, pixels. dim: channels D of the segmentor, a multiple of 32
    (the pixel decoder's group norms). resize: how a frame becomes S×S. lora_scale: alpha / rank of the adapters in a
    training checkpoint, which the file does not hold. image_budget, video_budget: defaults of Qwen3-VL's processors.

    Raises ConfigError for what is no model.
    """

    image_size: Annotated[int, Range(32, 8192)]
    dim: Width
    mask_encoder: MaskEncoderConfig
    pixel_decoder: PixelDecoderConfig
    mask_decoder: MaskDecoderConfig
    memory: MemoryConfig
    language: Mapping[str, Any] = field(hash=False)
    resize: ResizeMode = "stretch"
    lora_scale: Annotated[float, Range(-1e6, 1e6)] = 2.0
    image_budget: PixelBudget = PixelBudget(min_pixels=65536, max_pixels=16777216)
    video_budget: PixelBudget = PixelBudget(min_pixels=4096, max_pixels=25165824)

    def __post_init__(self) -> None:
        super().__post_init__()
        LanguageConfig.read(self.language)
        object.__setattr__(self, "language", _known(LanguageConfig, self.language))
        _require(self.image_size % 32 == 0, "image_size", self.image_size, "a multiple of 32")
        _require(self.dim % 32 == 0, "dim", self.dim, "a multiple of 32")
        scales = tuple(scale for scale in SCALES if scale in self.memory.scales)
        _require(scales == self.memory.scales != (), "memory.scales", self.memory.scales, f"some of {SCALES}, in order")
        for name in ("mask_decoder", "pixel_decoder"):
            heads = getattr(self, name).heads
            _require(self.dim % heads == 0, f"{name}.heads", heads, f"a divisor of dim ({self.dim})")
        window, grid = self.mask_encoder.windows[0], self.grids[-1]
        _require(grid % window == 0, "mask_encoder.windows", window, f"first a divisor of image_size / 4 ({grid})")
        most = f"less, so that a stream takes at most {_MOST_STREAM_BYTES:,} bytes"
        _require(
            self.stream_bytes <= _MOST_STREAM_BYTES, "a stream of these sizes", f"{self.stream_bytes:,} bytes", most
        )

    @property
    def grids(self) -> tuple[int, int, int]:
        """Sides of the feature maps, low to high resolution: strides 16, 8, 4."""
        return (self.image_size // 16, self.image_size // 8, self.image_size // 4)

    @property
    def slot_tokens(self) -> int:
        """Tokens one memory slot holds for each scale."""
        return self.grids[0] ** 2

    @property
    def stream_bytes(self) -> int:
        """What a stream takes in fp32, but for the engines' own needs: memory bank, feature maps, masks."""
        maps = sum(side**2 for side in self.grids) * self.dim * 2  # own features and conditioned ones
        bank = self.memory.slots * NUM_SCALES * self.slot_tokens * self.dim
        return 4 * (maps + bank + self.mask_decoder.queries * self.grids[-1] ** 2)

    @property
    def least_tensors(self) -> int:
        """Weights of a model with as many layers: a lower bound, as every layer has six."""
        language = LanguageConfig.read(self.language)
        layers = sum(self.mask_encoder.blocks) + self.pixel_decoder.layers + self.mask_decoder.layers
        layers += self.memory.attention_layers + self.memory.fuser_layers + language.text_config.num_hidden_layers
        return 6 * (layers + language.vision_config.depth + len(language.vision_config.deepstack_visual_indexes))

    @property
    def least_numbers(self) -> int:
        """Numbers in the weights: a lower bound, of the large matrices alone."""
        language, dim = LanguageConfig.read(self.language), self.dim
        text, vision, encoder = language.text_config, language.vision_config, self.mask_encoder
        heads = text.num_attention_heads * text.head_dim
        feedforward = self.pixel_decoder.layers * self.pixel_decoder.feedforward_dim
        feedforward += self.mask_decoder.layers * self.mask_decoder.feedforward_dim
        feedforward += self.memory.attention_layers * self.memory.attention_feedforward_dim
        feedforward += self.memory.fuser_layers * self.memory.fuser_feedforward_dim
        return sum(
            (
                text.vocab_size * text.hidden_size,
                text.num_hidden_layers * text.hidden_size * (3 * text.intermediate_size + 2 * heads),
                vision.depth * vision.hidden_size * (2 * vision.intermediate_size + 4 * vision.hidden_size),
                vision.num_position_embeddings * vision.hidden_size,
                sum(blocks * 8 * width**2 for blocks, width in zip(encoder.blocks, encoder.embed_dims, strict=True)),
                2 * dim * feedforward,
                dim * self.mask_decoder.queries,
            )
        )

    @property
    def language_dim(self) -> int:
        return int(self.language["text_config"]["hidden_size"])

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelConfig:
        return read_dataclass(cls, data, where="model config")
