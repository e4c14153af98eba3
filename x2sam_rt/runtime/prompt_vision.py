"""What a prompt shows: frames as visual tokens, and regions as what the mask encoder sees in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.language import Between
from x2sam_rt.model.preprocess import region_input, segmentor_input, tokens_per_pair, vision_patches, vision_size
from x2sam_rt.model.prompt_encoder import PromptEncoder, VisualTokens
from x2sam_rt.model.stage_contract import require_finite
from x2sam_rt.runtime.prompt_cache import FramePair, SeenPairs, frame_pairs
from x2sam_rt.runtime.prompt_frames import PromptFrames
from x2sam_rt.tasks.regions import RegionPrompt
from x2sam_rt.tasks.table import Media

RegionSource = Callable[[Tensor], Tensor]  # (1, 3, S, S) → (1, S/16, S/16, C): what the mask encoder sees of a frame

# Pairs of frames that go through the visual tower at once: what it takes beside its results is bounded by them.
PAIRS_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class ShownFrames:
    """The frames a prompt begins with. target: (height, width) they are resized to."""

    pairs: list[FramePair]
    target: tuple[int, int]

    @property
    def tokens_per_pair(self) -> int:
        return tokens_per_pair(self.target)


class PromptVision:
    """Looks at a prompt's frames; the visual tokens of those seen last are kept."""

    def __init__(self, encoder: PromptEncoder, region_source: RegionSource, config: ModelConfig, capacity: int) -> None:
        """capacity: visual tokens that are kept."""
        self._encoder, self._region_source, self._config = encoder, region_source, config
        self._capacity, self._seen = capacity, SeenPairs(capacity)

    @property
    def largest_seen_bytes(self) -> int:
        """Of the visual tokens that are kept, when there are as many as may be."""
        config = self._config.language["vision_config"]
        levels = 1 + len(config["deepstack_visual_indexes"])
        return self._capacity * levels * self._config.language_dim * self._encoder.dtype.itemsize

    @property
    def seen_bytes(self) -> int:
        return self._seen.nbytes

    def show(self, frames: PromptFrames, media: Media, between: Between | None = None) -> ShownFrames:
        """between: called before each frame, all of whose pixels are read."""
        video = media == "video"
        budget = self._config.video_budget if video else self._config.image_budget
        height, width = frames.frames[0].shape[:2]
        target = vision_size(height, width, len(frames.frames) if video else 1, budget)
        return ShownFrames(frame_pairs(frames.frames, target, frames.pixel_digests(between)), target)

    def see(self, shown: ShownFrames, count: int, between: Between | None = None) -> VisualTokens:
        """The last `count` visual tokens of the frames. between: called before each pair, which then goes through the
        visual tower alone and is kept whatever comes after."""
        needed = -(-count // shown.tokens_per_pair)
        pairs = shown.pairs[-needed:]

        def look(new: Sequence[FramePair]) -> VisualTokens:
            return self._run_tower(new, shown.target)

        if between is not None:
            for pair in pairs:
                between()
                self._seen.get([pair], look)
        return self._seen.get(pairs, look).last(count)

    def region_masks(self, regions: Sequence[RegionPrompt], frames: PromptFrames) -> Tensor | None:
        """(regions, S, S) uint8 in the segmentor's input grid; None without any. Raises PromptError when a region's
        frame is not at hand."""
        config = self._config
        masks = [
            region_input(region.mask(*frames.frame_of(region).shape[:2]), config.image_size, config.resize)
            for region in regions
        ]
        return torch.stack(masks).to(self._encoder.device) if masks else None

    def see_regions(
        self,
        regions: Sequence[RegionPrompt],
        masks: Tensor | None,
        frames: PromptFrames,
        between: Between | None = None,
    ) -> Tensor | None:
        """(regions, 64, dim), each read from the features of the frame it was drawn on; None without any. between:
        called before each region."""
        if masks is None:
            return None
        sources, seen = self._sources(regions, frames), list[Tensor]()
        for mask in masks:
            if between is not None:
                between()
            seen.append(self._encoder.look_at_regions(next(sources), mask[None]))
        return torch.cat(seen)

    def _sources(self, regions: Sequence[RegionPrompt], frames: PromptFrames) -> Iterator[Tensor]:
        """The source of each region's frame; several regions of one frame share it."""
        config, known = self._config, dict[int, Tensor]()
        for region in regions:
            if region.frame not in known:
                frame = frames.frame_of(region).to(self._encoder.device)
                known[region.frame] = self._region_source(
                    segmentor_input(frame, config.image_size, config.resize).pixels
                )
            yield known[region.frame]

    def _run_tower(self, pairs: Sequence[FramePair], target: tuple[int, int]) -> VisualTokens:
        parts = []
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            frames = [frame for pair in pairs[start : start + PAIRS_AT_ONCE] for frame in pair.frames]
            shown = [frame.to(self._encoder.device) for frame in frames]
            parts.append(self._encoder.see(vision_patches(shown, target)))
            require_finite("stage vision_encoder", parts[-1].tokens)
        return VisualTokens(
            torch.cat([part.tokens for part in parts]), torch.cat([part.deepstack for part in parts], dim=1)
        )
