"""Metrics: each takes examples one by one (`add`) and then gives its figures (`result`)."""

from x2sam_rt.evaluation.metrics.average_precision import (
    COCO_AREAS,
    YOUTUBE_VIS_AREAS,
    AreaLimits,
    AveragePrecision,
    AveragePrecisionResult,
    FoundInstance,
    TrueInstance,
)
from x2sam_rt.evaluation.metrics.boundary import boundary_measure
from x2sam_rt.evaluation.metrics.iou import MaskIoU, MaskIoUResult, MeanIoU, MeanIoUResult
from x2sam_rt.evaluation.metrics.j_and_f import JAndF, JAndFResult
from x2sam_rt.evaluation.metrics.panoptic import (
    CITYSCAPES_VPS_WINDOWS,
    VIPSEG_WINDOWS,
    PanopticQuality,
    PanopticResult,
    Quality,
    VideoPanopticQuality,
    VideoPanopticResult,
)
from x2sam_rt.evaluation.metrics.panoptic_map import PanopticMap, Tube
from x2sam_rt.evaluation.metrics.region import region_similarity
from x2sam_rt.evaluation.metrics.tracking import SegmentationTrackingQuality, TrackingResult

__all__ = [
    "CITYSCAPES_VPS_WINDOWS",
    "COCO_AREAS",
    "VIPSEG_WINDOWS",
    "YOUTUBE_VIS_AREAS",
    "AreaLimits",
    "AveragePrecision",
    "AveragePrecisionResult",
    "FoundInstance",
    "JAndF",
    "JAndFResult",
    "MaskIoU",
    "MaskIoUResult",
    "MeanIoU",
    "MeanIoUResult",
    "PanopticMap",
    "PanopticQuality",
    "PanopticResult",
    "Quality",
    "SegmentationTrackingQuality",
    "TrackingResult",
    "TrueInstance",
    "Tube",
    "VideoPanopticQuality",
    "VideoPanopticResult",
    "boundary_measure",
    "region_similarity",
]
