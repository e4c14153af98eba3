"""Grounded captions, as GCG is measured: their masks, their phrases and their words."""

from __future__ import annotations

import contextlib
import io
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from x2sam_rt.errors import ConfigError, DataError
from x2sam_rt.evaluation.metrics.state import State
from x2sam_rt.media.types import BoolMask

Matrix = npt.NDArray[np.float64]
TextSimilarity = Callable[[Sequence[str], Sequence[str]], Matrix]  # (true, found) texts → (true, found), −1…1
_AGREES = 0.5  # both the IoU of the masks and the likeness of the words must reach it
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+|\s+(?=[A-Z])")
_SEG = "<SEG>"


def caption_of(answer: str) -> str:
    """The words of a grounded answer, without the sentence its masks hang on; empty where it has no <SEG>.

    Cut at the ends of sentences, at new lines and before capitals that follow a space, as published.
    """
    if _SEG not in answer:
        return ""
    pieces = [piece for piece in _SENTENCE_END.split(answer) if piece and _SEG not in piece]
    plain = re.sub(r"<.*?>", "", " ".join(pieces))
    return re.sub(r"\s+", " ", plain).strip().strip("'\"")


def mask_ious(true: BoolMask, found: BoolMask) -> Matrix:
    """(n, m) float64: IoU of every pair; NaN where both are empty. true: (n, …) bool, found: (m, …) bool of one size.

    Raises DataError for two sizes."""
    if true.shape[1:] != found.shape[1:]:
        raise DataError(f"True masks {true.shape[1:]}, found {found.shape[1:]}: they must be of one size.")
    flat, other = (masks.reshape(len(masks), math.prod(masks.shape[1:])) for masks in (true, found))
    together = np.array([[np.count_nonzero(a & b) for b in other] for a in flat], dtype=np.float64)
    together = together.reshape(len(true), len(found))
    either = flat.sum(axis=1)[:, None] + other.sum(axis=1)[None] - together
    return np.where(either > 0, together / np.maximum(either, 1), np.nan)


class GroundedMeanIoU:
    """GCG's mIoU: mean over images, or over the frames of videos, of the mean IoU of paired masks.

    The pair that overlaps most is taken first, each mask once; masks without a partner cost nothing, and an image
    without a pair is worth 0. As published it is also worth 0 where some true and some found mask are both empty.
    Source: Rasheed et al., "GLaMM", CVPR 2024, as X2SAM evaluates it.
    """

    def __init__(self) -> None:
        self._values: list[float] = []

    def add(self, ious: Matrix) -> None:
        """ious: (true, found), of one image or frame; see `mask_ious`."""
        self._values.append(0.0 if np.isnan(ious).any() else _paired_mean(ious))

    def state(self) -> State:
        return list(self._values)

    def merge(self, state: State) -> None:
        self._values += state

    @property
    def values(self) -> tuple[float, ...]:
        """Of each image or frame."""
        return tuple(self._values)

    def result(self) -> float:
        """0…1. Raises DataError if nothing was added."""
        if not self._values:
            raise DataError("GCG's mIoU of nothing: no caption drew a mask.")
        return float(np.mean(self._values))


class PhraseRecall:
    """The part of the true phrases that were found: the same thing by its mask and by its words.

    Pairs are taken by their masks' IoU, the largest first, until one of them reaches 0.5 neither there nor in the
    likeness of the words. A video's masks are compared over all its frames at once. Source: as `GroundedMeanIoU`.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[list[list[float]], list[str], list[str]]] = []

    def add(self, ious: Matrix, true: Sequence[str], found: Sequence[str]) -> None:
        """ious: (true, found). true, found: the phrases, in the order of the masks."""
        if ious.shape != (len(true), len(found)):
            raise DataError(f"IoUs {ious.shape} of {len(true)} true and {len(found)} found phrases.")
        self._samples.append((np.nan_to_num(ious, nan=0.0).tolist(), list(true), list(found)))

    def state(self) -> State:
        """[[IoUs, true phrases, found phrases], …]: words are compared at the end, all at once."""
        return [list(sample) for sample in self._samples]

    def merge(self, state: State) -> None:
        self._samples += [(ious, true, found) for ious, true, found in state]

    def result(self, similarity: TextSimilarity) -> float:
        """0…1. Raises DataError if no true phrase was added."""
        phrases = sum(len(true) for _, true, _ in self._samples)
        if not phrases:
            raise DataError("Recall of no phrases: no example was added.")
        return sum(self._matches(np.array(s[0]), s[1], s[2], similarity) for s in self._samples) / phrases

    @staticmethod
    def _matches(ious: Matrix, true: list[str], found: list[str], similarity: TextSimilarity) -> int:
        if not true or not found:
            return 0
        alike, left, count = similarity(true, found), ious.copy(), 0
        while left.size and count < min(left.shape):
            row, column = np.unravel_index(int(left.argmax()), left.shape)
            if left[row, column] < _AGREES or alike[row, column] < _AGREES:
                break
            count += 1
            left[row], left[:, column] = -1, -1
        return count


@dataclass(frozen=True)
class CaptionResult:
    """meteor: METEOR 1.5, 0…1. cider: CIDEr, from 0; about 1 is usual, and it is no percentage."""

    meteor: float
    cider: float
    captions: int


class CaptionQuality:
    """The words of captions against one reference each, by pycocoevalcap after its PTB tokeniser. It runs Java."""

    def __init__(self) -> None:
        self._pairs: list[tuple[str, str]] = []

    def add(self, reference: str, caption: str) -> None:
        self._pairs.append((reference, caption))

    def state(self) -> State:
        """[[reference, caption], …]: CIDEr weighs words by all references."""
        return [list(pair) for pair in self._pairs]

    def merge(self, state: State) -> None:
        self._pairs += [(reference, caption) for reference, caption in state]

    @staticmethod
    def missing() -> str | None:
        """What there is to install before `result` can be had; None: nothing."""
        if find_spec("pycocoevalcap") is None:
            return "METEOR and CIDEr need pycocoevalcap: pip install 'x2sam-rt[captions]'"
        if shutil.which("java") is None:
            return "METEOR and CIDEr need java on the PATH (any version from 8, such as Debian's default-jre-headless)"
        return None

    def result(self) -> CaptionResult:
        """Raises ConfigError where `missing` says something, DataError if no caption was added."""
        if problem := self.missing():
            raise ConfigError(f"{problem}.")
        if not self._pairs:
            raise DataError("Quality of no captions: none was added.")
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

        tokenizer = PTBTokenizer()
        references, captions = (
            tokenizer.tokenize({number: [{"caption": pair[side]}] for number, pair in enumerate(self._pairs)})
            for side in (0, 1)
        )
        with contextlib.redirect_stdout(io.StringIO()):
            meteor, _ = Meteor().compute_score(references, captions)
            cider, _ = Cider().compute_score(references, captions)
        return CaptionResult(float(meteor), float(cider), len(self._pairs))


class BertSimilarity:
    """Cosine of mean-pooled last states of a BERT, special tokens included; the published figures use
    `bert-base-uncased`. folder: of such a model, with its tokenizer. Raises ConfigError where it is none."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        if not (folder / "config.json").is_file():
            raise ConfigError(f"{folder}: holds no config.json. Name a folder with bert-base-uncased.")
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def __call__(self, true: Sequence[str], found: Sequence[str]) -> Matrix:
        first, second = (
            torch.nn.functional.normalize(torch.stack([self._embedded(text) for text in texts]), dim=-1)
            for texts in (true, found)
        )
        return np.asarray((first @ second.T).double().numpy(), dtype=np.float64)

    def _embedded(self, text: str) -> torch.Tensor:
        """(D,) fp32."""
        tokens = self._tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
        with torch.inference_mode():
            states: torch.Tensor = self._model(**tokens).last_hidden_state
        return states[0].mean(0)


def _paired_mean(ious: Matrix) -> float:
    left, paired = ious.copy(), list[float]()
    while left.size and left.max() > 0:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        paired.append(float(left[row, column]))
        left[row], left[:, column] = 0, 0
    return float(np.mean(paired)) if paired else 0.0
