"""Post-processing written down literally: every mask resized to the frame, every segment tested against every pixel.

The oracle of the tests and the baseline of the benchmark. It follows X2SAM's rules but not its painting order: results
come by descending score, as ours do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_rt.runtime.postprocess.rule import FrameLogits

Found = list[tuple[int, float, Tensor]]  # label, score, (H, W) bool


def resized(frame: FrameLogits) -> Tensor:
    """(Q, H, W) mask logits in the frame's pixels."""
    square = F.interpolate(frame.mask_logits[None], size=(frame.side, frame.side), mode="bilinear", align_corners=False)
    height, width = frame.scaled_size
    cropped = square[:, :, :height, :width]
    return F.interpolate(cropped, size=frame.original_size, mode="bilinear", align_corners=False)[0]


def panoptic(frame: FrameLogits, labels: int, threshold: float, overlap: float = 0.8) -> Found:
    """Segments in the order of their queries."""
    scores, best = frame.probabilities(labels).max(-1)
    kept = scores > threshold
    evidence = scores[kept][:, None, None] * resized(frame)[kept].sigmoid()
    owner = evidence.argmax(0) if len(evidence) else torch.zeros(frame.original_size)
    found: Found = []
    for k, (score, label) in enumerate(zip(scores[kept].tolist(), best[kept].tolist(), strict=True)):
        mask, own = owner == k, evidence[k] >= 0.5
        if mask.sum() > 0 and own.sum() > 0 and mask.sum() / own.sum() > overlap:
            found.append((label, score, mask))
    return found


def semantic(frame: FrameLogits, labels: int) -> Tensor:
    """(H, W) categories."""
    return torch.einsum("qc,qhw->chw", frame.probabilities(labels), resized(frame).sigmoid()).argmax(0)


def instance(frame: FrameLogits, labels: int, threshold: float, is_thing: tuple[bool, ...]) -> Found:
    """Segments by descending score."""
    probabilities = frame.probabilities(labels)
    masks = resized(frame)
    found: Found = []
    for probability, flat in zip(*(part.tolist() for part in probabilities.flatten().topk(len(masks))), strict=True):
        query, label = divmod(flat, labels)
        mask = masks[query] > 0
        if is_thing[label] and mask.any():
            score = probability * float(masks[query].sigmoid()[mask].mean())
            if score >= threshold:
                found.append((label, score, mask))
    return sorted(found, key=lambda one: -one[1])


def phrases(frame: FrameLogits, labels: int) -> Found:
    """One mask per phrase, in their order (referring, grounded conversation)."""
    scores, best = frame.probabilities(labels).max(0)
    masks = resized(frame).sigmoid() > 0.5
    return [(label, float(scores[label]), masks[best[label]]) for label in range(labels)]


def interactive(frame: FrameLogits, threshold: float, prompt: Tensor) -> Found:
    """prompt: (H, W) bool in the frame's pixels."""
    probability = frame.probabilities(1)[:, 0]
    logits = resized(frame)
    masks = logits > 0
    inside = (logits.sigmoid() * masks).sum((1, 2)) / masks.sum((1, 2)).clamp_min(1)
    scores = probability * inside
    kept = ((scores >= threshold) | (scores == scores.max())).nonzero().flatten().tolist()
    best = max(kept, key=lambda query: iou(masks[query], prompt))
    return [(0, float(scores[best]), masks[best])]


def iou(first: Tensor, second: Tensor) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0
