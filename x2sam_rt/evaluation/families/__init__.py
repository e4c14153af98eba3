"""Families of figures, by the metric a data set names."""

from __future__ import annotations

from collections.abc import Callable

from x2sam_rt.data.dataset import Dataset, Metric
from x2sam_rt.evaluation.families.answers import AnswerFamily
from x2sam_rt.evaluation.families.captions import CaptionFamily
from x2sam_rt.evaluation.families.instances import InstanceFamily
from x2sam_rt.evaluation.families.objects import ObjectFamily
from x2sam_rt.evaluation.families.overlap import OverlapFamily
from x2sam_rt.evaluation.families.panoptic import ImagePanopticFamily, VideoPanopticFamily
from x2sam_rt.evaluation.families.semantic import SemanticFamily
from x2sam_rt.evaluation.figures import Family
from x2sam_rt.evaluation.metrics import COCO_AREAS, YOUTUBE_VIS_AREAS

__all__ = ["AnswerFamily", "CaptionFamily", "ObjectFamily", "family_of"]

_FAMILIES: dict[Metric, Callable[[Dataset], Family]] = {
    "j_and_f": lambda dataset: ObjectFamily(),
    "vgd": lambda dataset: ObjectFamily(),
    "giou": lambda dataset: OverlapFamily(),
    "semantic": SemanticFamily,
    "panoptic_video": VideoPanopticFamily,
    "panoptic_image": ImagePanopticFamily,
    "ap_video": lambda dataset: InstanceFamily(dataset, YOUTUBE_VIS_AREAS),
    "ap_image": lambda dataset: InstanceFamily(dataset, COCO_AREAS),
}


def family_of(dataset: Dataset) -> Family:
    """A fresh one, for the metric the data set is measured by."""
    return _FAMILIES[dataset.metric](dataset)
