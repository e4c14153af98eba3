"""Still images in and out, of any kind Pillow knows, as upright 8-bit RGB."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import atomic_file, naming_write_errors
from x2sam_rt.media.types import BoolMask, LabelMap, Pixels

# What Pillow's readers raise for damaged files.
_DAMAGES = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, ArithmeticError, LookupError, struct.error)
_WHITE = (255, 255, 255)
_HIGHEST_16_BIT = 65535
_HIGHEST_ID = 256**3 - 1


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """An image as Pillow has it, for palettes and other modes; raises VideoError as read_image does."""
    if not os.path.isfile(path):  # unlike the method, takes any name
        raise VideoError(f"{path}: no such file.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes). Check how it was copied.")
    try:
        with Image.open(path) as image:
            image.load()
            yield image
    except UnidentifiedImageError as error:
        raise VideoError(f"{path}: is not an image of a known format.") from error
    except Image.DecompressionBombError as error:
        raise VideoError(f"{path}: too many pixels ({error}). Scale the image down first.") from error
    except _DAMAGES as error:
        raise VideoError(f"{path}: the image is damaged ({error}). Fetch the file again.") from error


def read_image(path: str | Path, *, background: tuple[int, int, int] = _WHITE) -> Pixels:
    """An image file (the first frame of an animated one), turned upright by its EXIF orientation.

    Transparent parts show `background`. 16-bit grey is scaled to 8 bits (65535 → 255), not cut off.
    Returns (H, W, 3) uint8 RGB. Raises VideoError if the file is missing, empty, damaged, no image, larger than
    Pillow's guard against decompression bombs, or holds numbers without a known range (32-bit, floating point).
    """
    with open_image(Path(path)) as image:
        return np.array(_rgb(ImageOps.exif_transpose(image), Path(path), background))


def image_pixels(image: Image.Image) -> Pixels:
    """An image that Pillow has, as `read_image` gives it. Raises VideoError."""
    try:
        return np.array(_rgb(ImageOps.exif_transpose(image), Path("the image"), _WHITE))
    except _DAMAGES as error:  # it is read when its pixels are asked for
        raise VideoError(f"The image is damaged ({error}).") from error


def decode_image(data: bytes, formats: Sequence[str], most_pixels: int) -> Pixels:
    """An image from another's hands, as `read_image` gives it. formats: Pillow's names of those allowed. most_pixels:
    of the size it says it has, which is read before anything is unpacked. Raises VideoError."""
    try:
        with Image.open(io.BytesIO(data), formats=tuple(formats)) as image:
            if image.width * image.height > most_pixels:
                raise VideoError(f"The image has {image.width}×{image.height} pixels; up to {most_pixels} are taken.")
            return np.array(_rgb(ImageOps.exif_transpose(image), Path("the image"), _WHITE))
    except UnidentifiedImageError as error:
        raise VideoError(f"{len(data)} bytes are no image of the format {' or '.join(formats)}.") from error
    except Image.DecompressionBombError as error:
        raise VideoError(f"The image has too many pixels ({error}).") from error
    except _DAMAGES as error:
        raise VideoError(f"The image is damaged ({error}).") from error


def read_mask(path: str | Path) -> BoolMask:
    """A mask file: every pixel that is not zero belongs to it.

    Of an indexed image the index counts, not its colour; of a coloured one any channel, where it is not wholly
    transparent. Returns (H, W) bool, upright. Raises VideoError as read_image does, and for a JPEG.
    """
    with open_image(Path(path)) as image:
        if image.format == "JPEG":
            raise VideoError(f"{path}: JPEG leaves traces in a mask's black parts; save the mask as PNG.")
        mask = ImageOps.exif_transpose(image)
        if mask.mode in ("CMYK", "YCbCr", "LAB", "HSV"):  # black is not zero in these
            mask = mask.convert("RGB")
        levels: BoolMask = np.asarray(mask) != 0
        if mask.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
            return np.logical_and(np.any(levels[..., :-1], axis=-1), levels[..., -1])
        return np.logical_or.reduce(levels, axis=-1) if levels.ndim == 3 else levels


def write_image(path: str | Path, pixels: Pixels) -> None:
    """Writes an image, under its name only when it is complete; the suffix says the format (.png, .jpg, …).

    pixels: (H, W, 3) uint8 RGB. Raises VideoError on another shape or type, an unknown suffix, or a full disk.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise VideoError(f"{path}: got pixels {pixels.shape} {pixels.dtype}, wanted (H, W, 3) uint8 RGB.")
    check_image_name(Path(path))
    with atomic_file(path) as temporary:
        save_image(temporary, Image.fromarray(np.ascontiguousarray(pixels)))


def check_image_name(path: Path) -> None:
    """Raises VideoError for a suffix that is no format images are written in."""
    suffix = path.suffix.lower()
    if Image.registered_extensions().get(suffix) not in Image.SAVE:
        raise VideoError(f"{path}: {suffix or 'no suffix'} is not an image format; use .png or .jpg.")


def save_image(path: Path, image: Image.Image) -> None:
    """Writes a Pillow image of any mode at once under its name: for folders that have not got theirs yet."""
    with naming_write_errors(path):
        image.save(path)


def _rgb(image: Image.Image, path: Path, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bit(np.asarray(image), path)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bit(levels: npt.NDArray[np.generic], path: Path) -> Pixels:
    """16-bit grey as 8-bit; Pillow's own conversion would cut at 255."""
    numbers = levels.astype(np.float64)
    if levels.dtype.kind == "f" or numbers.min() < 0 or numbers.max() > _HIGHEST_16_BIT:
        raise VideoError(
            f"{path}: holds {levels.dtype} numbers from {numbers.min():g} to {numbers.max():g}, whose black and "
            "white are not known. Save it as 8-bit or 16-bit grey."
        )
    return np.rint(numbers * (255 / _HIGHEST_16_BIT)).astype(np.uint8)


def encode_ids(ids: LabelMap) -> Pixels:
    """(H, W) ids as (H, W, 3) uint8: R + 256·G + 65536·B. Raises VideoError for ids over 2²⁴ − 1."""
    if ids.max(initial=0) > _HIGHEST_ID:
        raise VideoError(f"Id {int(ids.max())} does not fit COCO's three bytes (at most {_HIGHEST_ID}).")
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)


def decode_ids(pixels: Pixels) -> LabelMap:
    """The inverse of encode_ids: (H, W, 3) uint8 to (H, W) int32."""
    channels = pixels.astype(np.int32)
    ids: LabelMap = channels[..., 0] + (channels[..., 1] << 8) + (channels[..., 2] << 16)
    return ids
