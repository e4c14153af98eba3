"""How the toy learns: its stages, and the made-up clips of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from x2sam_rt.data.example import Example
from x2sam_rt.data.synthetic import ClipSettings, synthetic_example
from x2sam_rt.model.training.mixture import Mixture, Source
from x2sam_rt.model.training.recipe import Recipe, Stage
from x2sam_rt.model.training.toy.auxiliary import AuxiliaryWeights
from x2sam_rt.tasks.table import Media

_CLIPS = 1_000_000  # different ones; no run comes to an end of them

_LENGTHS = (5,)  # of clips: enough for a memory, few enough for many clips

# How often each task is drawn.
_IMAGE_TASKS = {
    "referring": 5,
    "reasoning": 1,
    "panoptic": 2,
    "instance": 0.7,
    "gcg": 2.5,
    "chat": 1,
    "interactive": 1,
    "vgd": 1.5,
}
_VIDEO_TASKS = {"referring": 4, "reasoning": 1, "panoptic": 1.5, "gcg": 1.5, "chat": 0.4, "object": 1.5, "vgd": 0.7}


def toy_recipe(scale: float = 1.0, processes: int = 2) -> Recipe:
    """scale: makes every stage that much shorter or longer. processes: that share every step."""

    def steps(number: int) -> int:
        return max(1, round(number * scale))

    return Recipe(
        name="x2sam-toy",
        stages=(
            Stage(
                "words",
                _words(0.25, clips=3),
                steps(6000),
                2e-3,
                trains=("vlm.",),
                end_factor=0.5,
                warmup=steps(100),
                segments=False,
            ),
            Stage("images", _images(), steps(2000), 1.5e-3, warmup=steps(200)),
            Stage(
                "clips",
                _clips(video_share=0.6),
                steps(2200),
                1e-3,
                end_factor=0.3,
                warmup=steps(50),
                teacher_forcing=0.6,
                rehearsal=_words(0.7, clips=6),
                rehearsal_start=steps(1050),
            ),
            Stage(
                "as at work",
                _clips(video_share=0.75, lengths=(5, 8)),
                steps(450),
                4e-4,
                end_factor=0.02,
                rehearsal=_words(0.7, clips=6, lengths=(3, 5, 8)),
            ),
        ),
        auxiliary=AuxiliaryWeights(attributes=3.0, grounding=1.0, naming=1.0, outline=2.0, tower=3.0).heads,
        processes=processes,
    )


def _words(video_share: float, clips: int, lengths: Sequence[int] = _LENGTHS) -> Mixture:
    """Seeing and saying first, as X2SAM begins with a language model that can; a step of twice the images costs a
    quarter here. What a clip shows takes as long to learn to tell as its masks, so it is rehearsed beside them."""
    tasks = {"gcg": 2, "chat": 1}
    sources = (*_image_sources(tasks), *_video_sources(tasks, lengths))
    return Mixture(sources, image_batch=8, video_batch=clips, video_share=video_share)


def _images() -> Mixture:
    return Mixture(_image_sources(_IMAGE_TASKS), image_batch=4, video_batch=2, video_share=0.0)


def _clips(video_share: float, lengths: Sequence[int] = _LENGTHS) -> Mixture:
    sources = (*_image_sources(_IMAGE_TASKS), *_video_sources(_VIDEO_TASKS, lengths))
    return Mixture(sources, image_batch=4, video_batch=2, video_share=video_share, seed=1)


def _image_sources(weights: Mapping[str, float]) -> tuple[Source, ...]:
    settings = ClipSettings(frames=1, desaturated=0, occluder=0.1, same_colour=0.7, same_shape=0.6)
    return tuple(_source(task, "image", settings, weight) for task, weight in weights.items())


def _video_sources(weights: Mapping[str, float], lengths: Sequence[int]) -> tuple[Source, ...]:
    """lengths: of the clips, each as likely as the others. A language model that has read clips of one length only
    cannot tell what longer ones show."""
    sources: list[Source] = []
    for frames in lengths:
        settings = ClipSettings(
            frames=frames, desaturated=0.6, desaturated_frames=min(3, frames - 2), occluder=0.3, same_colour=0.6
        )
        sources += [_source(task, "video", settings, weight) for task, weight in weights.items()]
    return tuple(sources)


def _source(task: str, media: Media, settings: ClipSettings, weight: float) -> Source:
    name = f"{task}, {media}s of {settings.frames}"
    return Source(name, media, _CLIPS, _maker(task, media, settings), settings.frames, weight)


def _maker(task: str, media: Media, settings: ClipSettings) -> Callable[[int], Example]:
    def make(index: int) -> Example:
        example = synthetic_example("train", index, task, media=media, settings=settings)
        # Half of the clips are asked about as a live stream is: before more than one frame was seen.
        # What the model writes tells how things move, which one frame does not show.
        told = example.answer is not None or "motion" in example.tags
        live = media == "video" and index % 2 and not told
        return replace(example, seen=1) if live else example

    return make
