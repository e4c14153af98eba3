"""How X2SAM was asked when its figures were made: category names, questions and answers.

Its evaluation draws one of several wordings at random for every sample, so published figures are one draw. Here a
wording has a number; figures are made with number 0 unless something else is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from x2sam_rt.tasks.table import Media
from x2sam_rt.tasks.wording import TaskWording, Wording

_BY_CATEGORIES = (
    "Can you segment the {media} based on the following categories: {categories}? "
    "Please output the segmentation masks.",
    "Can you generate segmentation masks for this {media} based on the specified categories: {categories}? "
    "Please generate the segmentation masks.",
    "Can you provide segmentation masks for this {media} based on these categories: {categories}? "
    "Please provide the segmentation masks.",
    "Could you create segmentation masks for this {media} according to the specified categories: {categories}? "
    "Please create the segmentation masks.",
    "Could you output segmentation masks for this {media} that highlight the following categories: {categories}? "
    "Please output the segmentation masks.",
    "Could you provide segmentation masks for this {media} according to the specified categories: {categories}? "
    "Please respond with the segmentation masks.",
)
_BY_REGIONS = (
    "Can you segment the {media} based on the following regions: {regions}? "
    "Please output the corresponding segmentation mask.",
    "Can you generate segmentation masks for this {media} based on the specified regions: {regions}? "
    "Please generate the segmentation masks.",
    "Can you provide segmentation masks for this {media} based on these regions: {regions}? "
    "Please provide the segmentation masks.",
    "Could you create segmentation masks for this {media} according to the specified regions: {regions}? "
    "Please create the segmentation masks.",
    "Could you output segmentation masks for this {media} that highlight the following regions: {regions}? "
    "Please output the segmentation masks.",
    "Could you provide segmentation masks for this {media} according to the specified regions: {regions}? "
    "Please respond with the segmentation masks.",
)
_REFERRING = (
    "Please identify and segment the {phrases} in this {media}.",
    "Please segment {phrases} in this {media}.",
    "What is {phrases} in this {media}? Please output the corresponding segmentation mask.",
    "Can you segment {phrases} in this {media}? Please generate the segmentation mask.",
    "Could you provide a segmentation mask for the {phrases} in this {media}? Please provide the segmentation mask.",
    "Where is the {phrases} in this picture? Please output the segmentation masks.",
    "Can you highlight the {phrases} in this {media} with a segmentation mask? Please output the segmentation mask.",
    "Could you provide a segmentation mask for the {phrases} in this {media}? "
    "Please respond with the segmentation mask.",
    "Where is the {phrases} in this picture? Please output the corresponding segmentation mask.",
    "Can you highlight the {phrases} in this {media} with a segmentation mask? Please output the segmentation mask.",
)
_REASONING_SENTENCE = (
    "{question} Please output the corresponding segmentation mask.",
    "{question} Please generate a segmentation mask for this {media}.",
    "{question} Please extract the segmentation mask.",
    "{question} Please return the segmentation predictions as masks.",
    "{question} Please segment the {media}.",
)
_REASONING_PHRASE = (
    "Can you segment {question} in this {media}? Please output the segmentation mask.",
    "Can you give the segmentation mask for {question} in this {media}? Please respond with the segmentation mask.",
    "Can you highlight {question} and output the corresponding segmentation mask? "
    "Please provide the segmentation mask.",
    "What is {question} in this {media}? Please output the corresponding segmentation mask.",
    "What is {question} in this {media}? Please generate a segmentation mask for this {media}.",
)
_CAPTION_PARTS = "Please respond with interleaved segmentation masks for the corresponding parts of the answer."
_CAPTION_PHRASES = "Please output interleaved segmentation masks for the corresponding phrases."
_CAPTION_OF_IMAGE = (
    f"Could you please give me a brief description of the image? {_CAPTION_PARTS}",
    f"Can you provide a brief description of the this image? {_CAPTION_PHRASES}",
    f"Please briefly describe the contents of the image. {_CAPTION_PARTS}",
    f"Could you give a brief explanation of what can be found within this picture? {_CAPTION_PHRASES}",
    "Could you give me an brief explanation of this picture? "
    "Please respond with interleaved segmentation masks for the corresponding phrases.",
    "Could you provide me with a briefly analysis of this photo? "
    "Please output interleaved segmentation masks for the corresponding parts of the answer.",
)
_CAPTION_OF_VIDEO = (
    f"Could you please give me a brief description of the video? {_CAPTION_PARTS}",
    f"Can you provide a brief description of this video? {_CAPTION_PHRASES}",
    f"Please briefly describe the contents of the video. {_CAPTION_PARTS}",
    f"Could you give a brief explanation of what can be found within this video? {_CAPTION_PHRASES}",
    "Could you give me an brief explanation of this video? "
    "Please respond with interleaved segmentation masks for the corresponding phrases.",
    "Could you provide me with a briefly analysis of this video? "
    "Please output interleaved segmentation masks for the corresponding parts of the answer.",
)
_ANSWERS = ("<SEG>.", "It is <SEG>.", "Sure, <SEG>.", "Sure, it is <SEG>.")
_OF_RESULT = (*_ANSWERS, "Sure, the segmentation result is <SEG>.")
_OF_MASK = (*_ANSWERS, "Sure, the segmentation mask is <SEG>.")

_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "panoptic": _BY_CATEGORIES,
    "semantic": _BY_CATEGORIES,
    "instance": _BY_CATEGORIES,
    "referring": _REFERRING,
    "reasoning": _REASONING_SENTENCE,
    "gcg": _CAPTION_OF_IMAGE,
    "interactive": tuple(question.replace("{regions}", "{region}") for question in _BY_REGIONS),
    "object": tuple(question.replace("{regions}", "{region}") for question in _BY_REGIONS),
    "vgd": _BY_REGIONS,
}


def wordings_of(task: str) -> int:
    """How many questions of a task were published; 1 for tasks without any (chat)."""
    return len(_QUESTIONS.get(task, ("",)))


def published_wording(number: int, default: Wording, *, media: Media, newline: bool = False) -> Wording:
    """The published questions and answers of a number, counted round where a task has fewer; other tasks, and what
    was not published (explanations), keep those of `default`.

    newline: one stands between vision and question, as for RefCOCOg's test split, gRefCOCO and COCO-VGD's boxes.
    """
    before = "\n" if newline else ""
    changed = {}
    for task, questions in _QUESTIONS.items():
        chosen = _CAPTION_OF_VIDEO if task == "gcg" and media == "video" else questions
        answers = _OF_MASK if task in ("referring", "reasoning") else _OF_RESULT
        changed[task] = TaskWording(
            before + chosen[number % len(chosen)],
            None if task == "gcg" else answers[number % len(answers)],
            default[task].explained,
            before + _REASONING_PHRASE[number % len(_REASONING_PHRASE)] if task == "reasoning" else None,
        )
    return Wording({**default.tasks, **changed})


def category_name(name: str) -> str:
    """A data set's category as X2SAM names it: "Playground_slide" → "playground slide", "CD (disc)" → "cd"."""
    name = re.sub(r"\(.*\)", "", name)
    return name.replace(".", "").replace("_", " ").replace("-", " ").replace("  ", " ").strip().lower()


def coco_category_name(name: str) -> str:
    """COCO's panoptic categories: "floor-other-merged" → "floor other", "door-stuff" → "door"."""
    return category_name(name.replace("-merged", "").replace("-stuff", "").strip().lower())
