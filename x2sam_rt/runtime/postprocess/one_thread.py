"""Post-processing on one core."""

from __future__ import annotations

import torch

from x2sam_rt.runtime.postprocess.frame import FrameLogits, PostProcessor
from x2sam_rt.runtime.results import Segmentation


class OneThread:
    """Runs a post-processor without PyTorch's thread pool.

    The work is many small operations, tens of milliseconds in all: a second thread saves little, and where an engine's
    own threads keep the cores busy, waiting for it at the end of every operation has been seen to take seconds.
    The setting is the calling thread's own (OpenMP); it is put back after the call.
    """

    def __init__(self, post: PostProcessor) -> None:
        self._post = post

    def __call__(self, frame: FrameLogits) -> Segmentation:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._post(frame)
        finally:
            torch.set_num_threads(threads)
