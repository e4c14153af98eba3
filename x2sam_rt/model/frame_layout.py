"""Frames as people have them, made into what is segmented: (H, W, 3) uint8 RGB."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from x2sam_rt.errors import FrameError
from x2sam_rt.media.image import image_pixels, read_image
from x2sam_rt.media.types import MOST_PIXELS

Frame = np.ndarray[Any, Any] | Tensor | Image.Image | str | Path
Axes = Literal["HWC", "CHW", "HW"]
Colors = Literal["RGB", "BGR"]


@dataclass(frozen=True)
class Layout:
    """How an array or tensor holds a frame; what differs from the default must be said, since it could only be guessed.

    axes: rows, columns, then channels ("HWC"), channels first ("CHW"), or grey, without channels ("HW"). colors: their
    order (OpenCV's is "BGR"). white: the number that is full brightness, where 0 is none (1.0 of floats from 0 to 1,
    65535 of 16 bits); None = uint8. Raises FrameError.
    """

    axes: Axes = "HWC"
    colors: Colors = "RGB"
    white: float | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("axes", self.axes, get_args(Axes)), ("colors", self.colors, get_args(Colors))):
            if value not in known:
                raise FrameError(f"A layout with {name}={value!r}; wanted one of {', '.join(known)}.")
        if self.white is not None and not 0 < self.white < math.inf:
            raise FrameError(f"A layout with white={self.white}; wanted the number of full brightness, such as 1.0.")


RGB = Layout()


def as_frame(frame: Frame, layout: Layout = RGB) -> Tensor:
    """A frame as an (H, W, 3) uint8 tensor; an array's memory is shared where it can be, a tensor stays on its device.

    frame: an array or tensor that lies as `layout` says; an image of Pillow or an image file, which say it themselves.
    Values between two of the 256 levels are rounded; finding those out of range makes the host wait for a GPU. Raises
    FrameError for what does not lie so, and names the layout that would fit; VideoError for a file that is no image.
    """
    if isinstance(frame, str | Path | Image.Image):
        if layout != RGB:
            raise FrameError(f"An image says itself how it lies; {layout} is for arrays and tensors. Leave it out.")
        return torch.from_numpy(image_pixels(frame) if isinstance(frame, Image.Image) else read_image(frame))
    if not isinstance(frame, np.ndarray | Tensor):
        raise FrameError(
            f"A frame is {type(frame).__name__}; pass a numpy array or tensor, (H, W, 3) uint8 RGB, or an image."
        )
    _check_shape(tuple(frame.shape), layout)
    _check_type(frame, layout)
    pixels = frame if isinstance(frame, Tensor) else torch.from_numpy(np.require(frame, requirements=("C", "W")))
    return pixels if layout == RGB else _turned(_levels(pixels, layout.white), layout).contiguous()


def _turned(pixels: Tensor, layout: Layout) -> Tensor:
    if layout.axes == "HW":
        return pixels[..., None].expand(-1, -1, 3)
    last = pixels.permute(1, 2, 0) if layout.axes == "CHW" else pixels
    return last.flip(-1) if layout.colors == "BGR" else last


def _levels(pixels: Tensor, white: float | None) -> Tensor:
    if white is None:
        return pixels
    numbers = pixels.float()  # a level is 8 of its 24 bits
    least, most = torch.stack(numbers.aminmax()).tolist()
    if not (least >= 0 and most <= white):
        raise FrameError(
            f"A frame holds values from {least:g} to {most:g}; its layout says 0 to {white:g}. Correct white=, or "
            "remove NaN and clip it."
        )
    return (numbers * (255 / white)).round_().to(torch.uint8)


def _check_shape(shape: tuple[int, ...], layout: Layout) -> None:
    if math.prod(shape) > 3 * MOST_PIXELS:  # of an expanded one, no such memory need be there
        raise FrameError(f"A frame has shape {shape}; wanted at most {MOST_PIXELS} pixels. Scale it down first.")
    channels = {"HWC": shape[-1:], "CHW": shape[:1], "HW": (3,)}[layout.axes]
    if len(shape) == len(layout.axes) and channels == (3,) and 0 not in shape:
        return
    fits = {2: 'layout=Layout(axes="HW") for a grey one', 3: 'layout=Layout(axes="CHW") for channels first'}
    hint = f" ({fits[len(shape)]})" if layout.axes == "HWC" and len(shape) in fits and shape[-1] != 4 else ""
    alpha = " Drop an alpha channel, or pass a Pillow image." if shape[-1:] == (4,) else ""
    wanted = {"HWC": "(height, width, 3)", "CHW": "(3, height, width)", "HW": "(height, width)"}[layout.axes]
    raise FrameError(f"A frame has shape {shape}; wanted {wanted}{hint}, not empty.{alpha}")


def _check_type(frame: np.ndarray[Any, Any] | Tensor, layout: Layout) -> None:
    kind = str(frame.dtype).removeprefix("torch.")
    if isinstance(frame, Tensor) and (frame.is_meta or frame.layout is not torch.strided):
        raise FrameError(f"A frame is {frame.layout} on {frame.device}; wanted a tensor that holds its pixels.")
    if layout.white is None and kind != "uint8":
        raise FrameError(
            f"A frame is {kind}; wanted uint8, 0…255. If its values go from 0 to 1, pass layout=Layout(white=1.0)."
        )
    if layout.white is not None and not kind.startswith(("float", "bfloat", "int", "uint")):
        raise FrameError(f"A frame is {kind}; wanted numbers from 0 to {layout.white:g}.")
