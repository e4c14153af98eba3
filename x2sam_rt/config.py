"""What a model is: frozen configurations, JSON in and out, unknown keys refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from x2sam_rt.errors import ConfigError

T = TypeVar("T")
ResizeMode = Literal["stretch", "longest_side"]
Scale = Literal["low", "middle", "high"]
SCALES: tuple[Scale, ...] = ("low", "middle", "high")  # of the feature maps, by resolution: strides 16, 8, 4
NUM_SCALES = len(SCALES)
Turns = Literal["frames", "writes"]
_SCALARS = (int, float, str, bool)


@dataclass(frozen=True)
class MaskEncoderConfig:
    """SAM 2.1 Hiera trunk: one entry per stage."""

    embed_dims: tuple[int, ...]
    blocks: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]
    global_blocks: tuple[int, ...]
    window_grid: tuple[int, int] = (7, 7)

    @property
    def region_dim(self) -> int:
        """Channels of the third stage's output, which region prompts are sampled from."""
        return self.embed_dims[2]


@dataclass(frozen=True)
class PixelDecoderConfig:
    layers: int
    heads: int
    feedforward_dim: int


@dataclass(frozen=True)
class MaskDecoderConfig:
    layers: int
    heads: int
    feedforward_dim: int
    queries: int


@dataclass(frozen=True)
class MemoryConfig:
    """slots: frames the bank holds. The fuser is the memory encoder's stack of ConvNeXt-style blocks.

    The rest is as trained and published unless asked for, else an approximation. scales: those that look at the memory;
    the others keep the frame's own features. every: frames from one that is remembered to the next. reads: which frames
    look at the memory, all or those that are remembered; others are segmented as single images. gaps: what the age of a
    slot counts, the stream's frames or those that were remembered.
    """

    slots: int
    attention_layers: int
    attention_feedforward_dim: int
    fuser_layers: int
    fuser_feedforward_dim: int
    scales: tuple[Scale, ...] = SCALES
    every: int = 1
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
class PixelBudget:
    """Pixels the visual tower may see, after the resize to multiples of 32: of an image, or of a whole video prompt."""

    min_pixels: int
    max_pixels: int


@dataclass(frozen=True)
class ModelConfig:
    """A whole X2SAM. `language` is the Qwen3-VL configuration as its own `config.json` holds it.

    image_size: side S of the segmentor's square input, pixels. dim: channels D of the segmentor, a multiple of 32
    (the pixel decoder's group norms). resize: how a frame becomes S×S. lora_scale: alpha / rank of the adapters in a
    training checkpoint, which the file does not hold. image_budget, video_budget: defaults of Qwen3-VL's processors.
    """

    image_size: int
    dim: int
    mask_encoder: MaskEncoderConfig
    pixel_decoder: PixelDecoderConfig
    mask_decoder: MaskDecoderConfig
    memory: MemoryConfig
    language: Mapping[str, Any] = field(hash=False)
    resize: ResizeMode = "stretch"
    lora_scale: float = 2.0
    image_budget: PixelBudget = PixelBudget(min_pixels=65536, max_pixels=16777216)
    video_budget: PixelBudget = PixelBudget(min_pixels=4096, max_pixels=25165824)

    def __post_init__(self) -> None:
        _require(
            self.image_size % 32 == 0 and self.image_size > 0,
            "image_size",
            self.image_size,
            "a multiple of 32",
        )
        _require(self.dim % 32 == 0 and self.dim > 0, "dim", self.dim, "a multiple of 32")
        _require(self.memory.slots >= 1, "memory.slots", self.memory.slots, "at least 1")
        _require(self.memory.every >= 1, "memory.every", self.memory.every, "at least 1")
        scales = tuple(scale for scale in SCALES if scale in self.memory.scales)
        _require(scales == self.memory.scales != (), "memory.scales", self.memory.scales, f"some of {SCALES}, in order")
        for name in ("mask_decoder", "pixel_decoder"):
            heads = getattr(self, name).heads
            _require(self.dim % heads == 0, f"{name}.heads", heads, f"a divisor of dim ({self.dim})")
        for name in ("text_config", "vision_config"):
            _require(name in self.language, "language", sorted(self.language), f"a Qwen3-VL config with {name!r}")

    @property
    def grids(self) -> tuple[int, int, int]:
        """Sides of the feature maps, low to high resolution: strides 16, 8, 4."""
        return (self.image_size // 16, self.image_size // 8, self.image_size // 4)

    @property
    def slot_tokens(self) -> int:
        """Tokens one memory slot holds for each scale."""
        return self.grids[0] ** 2

    @property
    def language_dim(self) -> int:
        return int(self.language["text_config"]["hidden_size"])

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelConfig:
        return read_dataclass(cls, data, where="model config")


def _require(holds: bool, name: str, found: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {found}; it must be {wanted}. Correct it in the configuration.")


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file. Raises ConfigError when it cannot be read or is something else."""
    try:
        data = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not a readable JSON file ({error}).") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: found {type(data).__name__}, wanted an object with named fields.")
    return data


def read_dataclass(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Builds a dataclass (nested ones too) from plain JSON, in which a field's value may stand ready-made. Raises
    ConfigError on unknown or missing keys, and for values of other types."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: found {type(data).__name__}, wanted an object with named fields.")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    required = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    unknown, missing = sorted(set(data) - set(fields)), sorted(required - set(data))
    if unknown or missing:
        raise ConfigError(f"{where}: unknown keys {unknown}, missing keys {missing}; known keys: {sorted(fields)}.")
    hints = get_type_hints(cls)
    return cls(**{name: _read_value(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def _read_value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        fitting = [a for a in arguments if a in _SCALARS and _is_scalar(a, value)]
        if fitting or (value is None and type(None) in arguments):
            return value
        return _read_value(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else read_dataclass(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    if origin is dict:
        return {key: _read_value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is Literal and value not in arguments:
        raise ConfigError(f"{where} is {value!r}; it must be one of {list(arguments)}.")
    if hint in _SCALARS and not _is_scalar(hint, value):
        raise ConfigError(f"{where} is {value!r} ({type(value).__name__}); it must be {hint.__name__}.")
    if isinstance(hint, type) and hint not in _SCALARS and not isinstance(value, hint):
        raise ConfigError(f"{where} is of type {type(value).__name__}; it must be {hint.__name__}.")
    return value


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} is {value!r}; it must be a list.")
    if arguments[-1] is not Ellipsis and len(value) != len(arguments):
        raise ConfigError(f"{where} has {len(value)} entries; it must have {len(arguments)}.")
    return tuple(_read_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))


def _is_scalar(hint: type, value: object) -> bool:
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
