"""Ids that stay with their object."""

import numpy as np
import pytest
import torch

from x2sam_rt.runtime.postprocess.instance_tracker import InstanceTracker, MaskHistory, Overlaps


def overlaps(*rows: tuple[float, ...]) -> Overlaps:
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1)


def started(tracker: InstanceTracker, labels: list[int]) -> tuple[int, ...]:
    return tracker.assign(labels, [True] * len(labels), np.zeros((len(labels), 0)))


def test_new_things_are_numbered() -> None:
    assert started(InstanceTracker(first=1), [4, 4, 2]) == (1, 2, 3)


def test_things_keep_their_ids_in_any_order() -> None:
    tracker = InstanceTracker(first=0)
    started(tracker, [4, 4])
    assert tracker.assign([4, 4], [True, True], overlaps((0.1, 0.9), (0.8, 0.0))) == (1, 0)


@pytest.mark.parametrize(("label", "overlap"), [(4, 0.5), (5, 0.9)])
def test_too_little_overlap_or_another_label_is_new(label: int, overlap: float) -> None:
    tracker = InstanceTracker(first=0)
    started(tracker, [4])
    assert tracker.assign([label], [True], overlaps((overlap,))) == (1,)


def test_an_id_is_taken_over_once_by_the_best() -> None:
    tracker = InstanceTracker(first=0)
    started(tracker, [4])
    assert tracker.assign([4, 4], [True, True], overlaps((0.6,), (0.9,))) == (1, 0)


def test_the_second_best_is_taken_where_the_best_is_gone() -> None:
    tracker = InstanceTracker(first=0)
    started(tracker, [4, 4])
    assert tracker.assign([4, 4], [True, True], overlaps((0.9, 0.6), (0.95, 0.2))) == (1, 0)


def test_numbers_are_never_given_twice() -> None:
    tracker = InstanceTracker(first=0)
    started(tracker, [4])
    tracker.assign([], [], np.zeros((0, 1)))
    assert started(tracker, [4]) == (1,)


def test_restart_numbers_every_frame_anew() -> None:
    tracker = InstanceTracker(first=1, restart=True)
    started(tracker, [4, 4])
    assert tracker.assign([7, 4], [True, True], overlaps((0.0, 0.0), (0.9, 0.0))) == (1, 1)


def test_stuff_of_a_label_is_one() -> None:
    tracker = InstanceTracker(first=1)
    assert tracker.assign([3, 0, 3], [False, True, False], np.zeros((3, 0))) == (1, 2, 1)
    assert tracker.assign([0, 3], [True, False], np.zeros((2, 3))) == (3, 1)


def test_things_do_not_take_over_from_stuff() -> None:
    tracker = InstanceTracker(first=1)
    tracker.assign([3], [False], np.zeros((1, 0)))
    assert tracker.assign([3], [True], overlaps((0.9,))) == (2,)


def test_the_reserved_id_is_left_out() -> None:
    assert started(InstanceTracker(first=254, reserved=255), [1, 1, 1]) == (254, 256, 257)


def test_overlap_with_the_masks_before() -> None:
    history = MaskHistory()
    left, right = torch.zeros(2, 3, 4, dtype=torch.bool)
    left[:, :2] = True
    right[:, 1:] = True
    assert history.overlaps(torch.stack([left])).shape == (1, 0)
    np.testing.assert_allclose(history.overlaps(torch.stack([right, left])), [[3 / 12], [1.0]])
    assert history.overlaps(torch.zeros(0, 3, 4, dtype=torch.bool)).shape == (0, 2)
    assert history.overlaps(torch.stack([left])).shape == (1, 0)
