"""A rule at rest goes on in another of its kind, wherever that keeps its masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from x2sam_rt.errors import SnapshotError
from x2sam_rt.runtime.postprocess import make_postprocessor
from x2sam_rt.runtime.postprocess.on_device import on_device
from x2sam_rt.runtime.postprocess.rule import FrameLogits, PostProcessor
from x2sam_rt.runtime.postprocess.state import RuleState, TrackerState
from x2sam_rt.tasks.instruction import PostProcessOptions
from x2sam_rt.tasks.table import Conditions, Rule

QUERIES, GRID = 12, 16
CONDITIONS = Conditions(("cat", "dog", "sky"), (True, True, False))
OPTIONS = PostProcessOptions(threshold=0.1, overlap=0.3)
PROMPT = torch.zeros(1, 64, 64, dtype=torch.uint8)
PROMPT[0, 10:40, 10:40] = 1
Make = Callable[[Rule, Conditions, PostProcessOptions, Tensor], PostProcessor]


def frame(number: int, size: tuple[int, int] = (45, 61)) -> FrameLogits:
    """Shapes that move a little from frame to frame."""
    generator = torch.Generator().manual_seed(7)
    centres = torch.rand(QUERIES, 2, generator=generator) * GRID + 0.3 * number
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    far = (rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2
    classes = torch.randn(QUERIES, 4, generator=generator)
    return FrameLogits(4 - far / 4, classes, 64, (47, 64), size)


@pytest.mark.parametrize("rule", ["panoptic", "semantic", "instance", "grounded", "phrases", "interactive", "object"])
@pytest.mark.parametrize("before", [make_postprocessor, on_device], ids=["from CPU", "from GPU"])
@pytest.mark.parametrize("after", [make_postprocessor, on_device], ids=["to CPU", "to GPU"])
@pytest.mark.parametrize("seen", [0, 3])
def test_a_rule_goes_on(rule: Rule, before: Make, after: Make, seen: int) -> None:
    one, other = (make(rule, CONDITIONS, OPTIONS, PROMPT) for make in (before, after))
    for number in range(seen):
        one(frame(number))
    other.restore(one.state(), torch.Size((QUERIES, GRID, GRID)))
    for number, size in ((seen, (45, 61)), (seen + 1, (33, 80))):
        ours, theirs = other(frame(number, size)), one(frame(number, size))
        assert [segment.id for segment in ours.segments] == [segment.id for segment in theirs.segments]
        assert [segment.score for segment in ours.segments] == pytest.approx([one.score for one in theirs.segments])
        assert np.mean(ours.map != theirs.map) < 1e-2  # the two kinds round differently; ids they give alike


NUMBERED = TrackerState(3, (), (0, 1), (1, 2))


@pytest.mark.parametrize(
    ("rule", "state"),
    [
        ("semantic", RuleState(NUMBERED)),
        ("panoptic", RuleState()),
        ("panoptic", RuleState(NUMBERED)),
        ("panoptic", RuleState(NUMBERED, (torch.full((4, 4), 2, dtype=torch.int32),))),
        ("panoptic", RuleState(NUMBERED, (torch.zeros(4, 4),))),
        ("instance", RuleState(NUMBERED, (torch.zeros(2, GRID, 4, dtype=torch.bool),))),
        ("instance", RuleState(NUMBERED, (torch.zeros(3, GRID, GRID, dtype=torch.bool),))),
        ("instance", RuleState(TrackerState(2, (), (0, 1), (1, 2)), (torch.zeros(2, GRID, GRID, dtype=torch.bool),))),
        ("object", RuleState(masks=(torch.zeros(4, 4, dtype=torch.bool),))),
        ("object", RuleState(masks=(torch.zeros(4, dtype=torch.bool),), scores=(0.9,))),
        ("object", RuleState(masks=(torch.zeros(4, 4, dtype=torch.bool),), scores=(1e30,))),
        ("object", RuleState(masks=(torch.zeros(4, 4, dtype=torch.bool),) * 5, scores=(0.9,) * 5)),
    ],
)
@pytest.mark.parametrize("make", [make_postprocessor, on_device])
def test_what_no_rule_remembers_is_refused(make: Make, rule: Rule, state: RuleState) -> None:
    post = make(rule, CONDITIONS, OPTIONS, PROMPT)
    with pytest.raises(SnapshotError):
        post.restore(state, torch.Size((QUERIES, GRID, GRID)))


def test_more_segments_than_queries_are_refused() -> None:
    state = RuleState(NUMBERED, (torch.tensor([[-1, 0, 1]], dtype=torch.int32),))
    on_device("panoptic", CONDITIONS, OPTIONS, PROMPT).restore(state, torch.Size((3, GRID, GRID)))
    with pytest.raises(SnapshotError, match="queries"):
        on_device("panoptic", CONDITIONS, OPTIONS, PROMPT).restore(state, torch.Size((2, GRID, GRID)))
