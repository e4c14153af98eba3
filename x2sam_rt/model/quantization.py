"""The text model's weights in fewer bits, through torchao (extra [quant]); activations stay what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from x2sam_rt.errors import require_extra
from x2sam_rt.model.torchao_warnings import TORCHAO_WARNINGS
from x2sam_rt.model.x2sam import X2SAM

LanguageWeights = Literal["full", "int8", "int4"]
LANGUAGE_WEIGHTS: tuple[LanguageWeights, ...] = get_args(LanguageWeights)
_GROUP = 32  # weights of a row that share a scale in int4


@dataclass(frozen=True)
class QuantizationBounds:
    """What a bundle may lose by its text model's weights. cosine: least, of a prompt embedding with the same one by
    full weights. iou: least, of the masks of a frame. j_and_f: largest difference over the clips of a part."""

    cosine: float
    iou: float
    j_and_f: float


# By these the embedded model passes in int8 (least cosine 0.9998, IoU 0.996, J&F within 0.0002) and is refused in int4
# (0.886, of a phrase it was not trained on, and 0.913): 64 channels leave rounding nowhere to average out. Large models
# have been fine in int4 elsewhere; each has to show it here.
QUANTIZATION_BOUNDS: dict[LanguageWeights, QuantizationBounds] = {
    "full": QuantizationBounds(1.0, 1.0, 0.0),
    "int8": QuantizationBounds(0.999, 0.99, 0.01),
    "int4": QuantizationBounds(0.98, 0.95, 0.03),
}


def quantize_language(model: X2SAM, weights: LanguageWeights) -> None:
    """Rounds the linear layers of the text model's decoder, in place: int8 with a scale per row, int4 with one for 32
    weights. Embedding and output tables, visual tower and projectors stay whole.

    torchao's int4 for CPUs holds each weight in a byte: it shows what int4 costs in accuracy, and saves no more memory
    than int8. Raises MissingExtra without torchao.
    """
    if weights == "full":
        return
    require_extra("quant")
    TORCHAO_WARNINGS.release()
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup, quantize_

    layers: nn.Module = model.vlm.model.language_model.layers
    layers.requires_grad_(False)
    int4 = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(_GROUP))  # type: ignore[attr-defined]
    quantize_(layers, Int8WeightOnlyConfig() if weights == "int8" else int4)
