"""Text of any script as a picture of its ink, drawn with whichever fonts have its letters."""

from __future__ import annotations

import logging
import sys
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_log = logging.getLogger(__name__)
_NO_CHARACTER = "\uffff"  # what every font shows as "I have no such letter"
_SAMPLE_SIZE = 16  # pixels; whether a font has a letter does not depend on it
_FOLDERS = {
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": ("C:/Windows/Fonts",),
}.get(sys.platform, ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"))
_SUFFIXES = (".ttf", ".otf", ".ttc")
_PLAIN = ("NotoSans", "DejaVuSans", "Regular")  # looked into first: many letters, no slant

Font = ImageFont.FreeTypeFont


@lru_cache(maxsize=1024)
def lettering(text: str, size: int) -> Image.Image:
    """A line of text as an "L" picture, 0…255 ink; as wide as the text, as high as a line of `size` pixels.

    The first font is the one that Pillow brings; letters it lacks come from the fonts installed on this machine. Where
    none has them, a box stands for each and a warning names their script. Control characters and line
    breaks are blanks.
    The picture is kept for the next frame that shows the same text: do not change it.
    """
    runs = [(run, _sized(font, size)) for run, font in _runs(_printable(text))]
    widths = [font.getlength(run) for run, font in runs]
    line = line_height(size)
    picture = Image.new("L", (max(1, round(sum(widths))), line))
    draw, left = ImageDraw.Draw(picture), 0.0
    for (run, font), width in zip(runs, widths, strict=True):
        draw.text((left, line / 2), run, 255, font, anchor="lm")
        left += width
    return picture


@lru_cache(maxsize=64)
def line_height(size: int) -> int:
    """Pixels from one line to the next for letters of `size` pixels."""
    return round(_sized(None, size).getbbox("Ägjy")[3] * 1.25)


def _printable(text: str) -> str:
    return "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text)


def _runs(text: str) -> Iterator[tuple[str, Path | None]]:
    """The text in pieces of one font each (None: Pillow's own). A font is kept as long as it has the letters, so that
    the blanks between words of a right-to-left script do not part them."""
    run, font = "", None
    for letter in text:
        wanted = font if _goes_on(letter, font) else _font_of(letter)
        if wanted != font and run:
            yield run, font
            run = ""
        run, font = run + letter, wanted
    if run:
        yield run, font


def _goes_on(letter: str, font: Path | None) -> bool:
    """Marks that combine with the letter before, and joiners, are drawn with it."""
    return unicodedata.category(letter) in ("Mn", "Me", "Mc", "Cf") or _has(font, letter)


@lru_cache(maxsize=4096)
def _font_of(letter: str) -> Path | None:
    for font in (None, *_installed()):
        if _has(font, letter):
            return font
    _warn_of_boxes(unicodedata.name(letter, f"U+{ord(letter):04X}").split()[0])
    return None


@lru_cache(maxsize=256)
def _warn_of_boxes(script: str) -> None:
    """Once for each script, by the first word of its letters' names."""
    _log.warning(
        "No font on this machine has all %s letters, so boxes are drawn for some; install one, such as fonts-noto-core "
        "or fonts-noto-cjk.",
        script,
    )


@lru_cache(maxsize=16384)
def _has(font: Path | None, letter: str) -> bool:
    try:
        opened = _sized(font, _SAMPLE_SIZE)
    except OSError:  # a damaged file, or a font of pictures in one fixed size
        return False
    if letter.isspace():
        return True
    return bytes(opened.getmask(letter)) != bytes(opened.getmask(_NO_CHARACTER))


@lru_cache(maxsize=256)
def _sized(font: Path | None, size: int) -> Font:
    opened = ImageFont.load_default(size) if font is None else ImageFont.truetype(str(font), size)
    assert isinstance(opened, ImageFont.FreeTypeFont), "with a size, Pillow's own font is a scalable one"
    return opened


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, ...]:
    """The font files of this machine, plain ones first."""
    files = [path for folder in _FOLDERS for path in Path(folder).expanduser().rglob("*") if path.suffix in _SUFFIXES]
    return tuple(sorted(files, key=lambda path: (-sum(word in path.name for word in _PLAIN), len(path.name), path)))
