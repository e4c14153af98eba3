"""Evaluators, by the metric a data set names."""

from __future__ import annotations

from pathlib import Path

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.evaluation.evaluators.categories import InstanceEvaluator, PanopticEvaluator, SemanticEvaluator
from x2sam_rt.evaluation.evaluators.masks import ObjectEvaluator, OverlapEvaluator
from x2sam_rt.evaluation.evaluators.score import Evaluator, Piece, Score
from x2sam_rt.evaluation.evaluators.words import AnswerEvaluator, CaptionEvaluator, LinkingEvaluator

__all__ = [
    "AnswerEvaluator",
    "CaptionEvaluator",
    "Evaluator",
    "InstanceEvaluator",
    "LinkingEvaluator",
    "ObjectEvaluator",
    "OverlapEvaluator",
    "PanopticEvaluator",
    "Piece",
    "Score",
    "SemanticEvaluator",
    "evaluator_of",
]


def evaluator_of(dataset: Dataset, *, published: bool, bert: Path | None = None) -> Evaluator:
    """For the metric the data set is measured by. published: as X2SAM's figures are made, where the field's own rules
    are others; bert: see `CaptionEvaluator`."""
    match dataset.metric:
        case "j_and_f" | "vgd":
            return ObjectEvaluator(over_frames=published)
        case "giou":
            return OverlapEvaluator()
        case "semantic" | "semantic_video":
            return SemanticEvaluator(dataset, video=dataset.metric == "semantic_video")
        case "panoptic_image" | "panoptic_video":
            return PanopticEvaluator(dataset, video=dataset.metric == "panoptic_video")
        case "ap_image":
            return InstanceEvaluator(dataset, "tracks", video=False, published=published)
        case "ap_video":
            return InstanceEvaluator(dataset, "pooled" if published else "tracks", video=True, published=published)
        case "vgd_image" | "vgd_video":
            return InstanceEvaluator(dataset, "frames", video=dataset.metric == "vgd_video", published=published)
        case "gcg_image" | "gcg_video":
            return CaptionEvaluator(video=dataset.metric == "gcg_video", bert=bert)
