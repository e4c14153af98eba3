"""The table of tasks. A new task is a new row here, with its builder above it where none of these fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from x2sam_rt.errors import PromptError
from x2sam_rt.runtime.postprocess.instance import InstancePostProcessor
from x2sam_rt.runtime.postprocess.panoptic import PanopticPostProcessor
from x2sam_rt.runtime.postprocess.phrases import PhrasePostProcessor
from x2sam_rt.runtime.postprocess.prompted import InteractivePostProcessor, ObjectPostProcessor
from x2sam_rt.runtime.postprocess.rule import Conditions, PostProcessOptions
from x2sam_rt.runtime.postprocess.semantic import SemanticPostProcessor
from x2sam_rt.tasks.instruction import REGION, Asked, Instruction, Request, check_text
from x2sam_rt.tasks.task import Media, Task
from x2sam_rt.tasks.wording import TaskWording, Wording

ANY_MEDIA: tuple[Media, ...] = ("image", "video")
KNOWN_ANSWER = "It is <SEG>."


def _marked(texts: Sequence[str]) -> str:
    return ", ".join(f"<p>{text}</p>" for text in texts)


def _require_distinct(texts: Sequence[str], what: str) -> None:
    doubled = [text for text, count in Counter(texts).items() if count > 1]
    if doubled:
        raise PromptError(f"Doubled {what}: {', '.join(doubled)}. Each must be asked for once.")


def category_name(category: str) -> str:
    """The name as the model was taught it: "Floor-other-merged" → "floor" (X2SAM, generic segmentation)."""
    name = category.lower()
    for suffix in ("-merged", "-other", "-stuff"):
        name = name.replace(suffix, "")
    return check_text(name.replace("-", " "), "category name")


def _categories(request: Request) -> Asked:
    labels = request.things + request.stuff
    if not labels:
        raise PromptError("An empty category list: give things, stuff or both.")
    names = [category_name(label) for label in labels]
    _require_distinct(names, "categories")
    is_thing = (True,) * len(request.things) + (False,) * len(request.stuff)
    return Asked({"categories": _marked(names)}, labels, is_thing)


def _thing_categories(request: Request) -> Asked:
    if not request.things:
        raise PromptError("No things in the category list: only things have instances.")
    return _categories(request)


def _phrases(request: Request) -> Asked:
    if not request.phrases:
        raise PromptError("No phrase to look for: give at least one.")
    names = [check_text(phrase, "phrase").lower() for phrase in request.phrases]
    _require_distinct(names, "phrases")
    return Asked({"phrases": _marked(names)}, request.phrases, (True,) * len(names))


def _reasoned_question(request: Request) -> Asked:
    question = check_text(request.question or "", "question")
    return Asked({"question": _marked([question])}, (question,), (True,))


def _chat_text(request: Request) -> Asked:
    return Asked({"question": check_text(request.question or "", "question").replace(REGION, _marked([REGION]))})


def _nothing(request: Request) -> Asked:
    return Asked({})


def _one_region(request: Request) -> Asked:
    if len(request.regions) != 1:
        raise PromptError(f"{len(request.regions)} visual prompts; exactly one is wanted (vgd takes several).")
    return Asked({"region": _marked([REGION])}, ("region 1",), (True,))


def _regions(request: Request) -> Asked:
    if not request.regions:
        raise PromptError("No visual prompt: give at least one point, box, scribble or mask.")
    phrases = [check_text(phrase, "phrase").lower() for phrase in request.phrases]
    _require_distinct(phrases, "phrases")
    labels = tuple(f"region {number + 1}" for number in range(len(request.regions))) + request.phrases
    marked = _marked([REGION] * len(request.regions) + phrases)
    return Asked({"regions": marked}, labels, (True,) * len(labels))


def _conditions(instruction: Instruction) -> Conditions:
    return Conditions(instruction.labels, instruction.is_thing)


def _panoptic(instruction: Instruction, options: PostProcessOptions, _: Tensor | None) -> PanopticPostProcessor:
    return PanopticPostProcessor(_conditions(instruction), options)


def _semantic(instruction: Instruction, options: PostProcessOptions, _: Tensor | None) -> SemanticPostProcessor:
    return SemanticPostProcessor(_conditions(instruction))


def _instance(instruction: Instruction, options: PostProcessOptions, _: Tensor | None) -> InstancePostProcessor:
    return InstancePostProcessor(_conditions(instruction), options, empty=-1)


def _grounded(instruction: Instruction, options: PostProcessOptions, _: Tensor | None) -> InstancePostProcessor:
    return InstancePostProcessor(_conditions(instruction), options, empty=255)


def _by_phrase(instruction: Instruction, options: PostProcessOptions, _: Tensor | None) -> PhrasePostProcessor:
    return PhrasePostProcessor(_conditions(instruction), options)


def _interactive(
    instruction: Instruction, options: PostProcessOptions, masks: Tensor | None
) -> InteractivePostProcessor:
    return InteractivePostProcessor(_conditions(instruction), options, _prompt_mask(instruction, masks))


def _object(instruction: Instruction, options: PostProcessOptions, masks: Tensor | None) -> ObjectPostProcessor:
    return ObjectPostProcessor(_conditions(instruction), options, _prompt_mask(instruction, masks))


def _prompt_mask(instruction: Instruction, masks: Tensor | None) -> Tensor:
    assert masks is not None, f"{instruction.task.name} needs the prompt's mask"
    assert len(masks) == len(instruction.regions) == 1, "one prompt, one mask"
    return masks[0] != 0


_BY_CATEGORIES = TaskWording(
    "Please segment this {media} by these categories: {categories}. Answer with the segmentation masks.",
    KNOWN_ANSWER,
)
# Thresholds: those the published recordings were made with; the single-answer tasks have none.
_ROWS = (
    Task(
        name="chat",
        description="a conversation about the image or video, without masks",
        media=ANY_MEDIA,
        takes=("question", "regions"),
        wording=TaskWording("{question}"),
        build=_chat_text,
    ),
    Task(
        name="panoptic",
        description="things and stuff by category, every pixel in at most one segment",
        media=ANY_MEDIA,
        takes=("things", "stuff"),
        wording=_BY_CATEGORIES,
        build=_categories,
        postprocess=_panoptic,
        threshold=0.3,
    ),
    Task(
        name="semantic",
        description="the category of every pixel",
        media=ANY_MEDIA,
        takes=("things", "stuff"),
        wording=_BY_CATEGORIES,
        build=_categories,
        postprocess=_semantic,
    ),
    Task(
        name="instance",
        description="every thing by category, masks may overlap",
        media=ANY_MEDIA,
        takes=("things", "stuff"),
        wording=_BY_CATEGORIES,
        build=_thing_categories,
        postprocess=_instance,
        threshold=0.3,
    ),
    Task(
        name="referring",
        description="what a phrase refers to; several phrases give a mask each",
        media=ANY_MEDIA,
        takes=("phrases", "regions"),
        wording=TaskWording("Please segment {phrases} in this {media}.", KNOWN_ANSWER),
        build=_phrases,
        postprocess=_by_phrase,
    ),
    Task(
        name="reasoning",
        description="what answers a question",
        media=ANY_MEDIA,
        takes=("question", "regions"),
        wording=TaskWording(
            "{question} Please answer with the segmentation mask.",
            KNOWN_ANSWER,
            "{question} Please explain why, and answer with the segmentation mask.",
        ),
        build=_reasoned_question,
        postprocess=_by_phrase,
    ),
    Task(
        name="gcg",
        description="grounded conversation: a caption whose phrases have masks",
        media=ANY_MEDIA,
        takes=(),
        wording=TaskWording(
            "Please describe this {media} briefly, with interleaved segmentation masks for the phrases."
        ),
        build=_nothing,
        postprocess=_by_phrase,
    ),
    Task(
        name="interactive",
        description="the object of an image under one visual prompt; in videos it is called object",
        media=("image",),
        takes=("regions",),
        wording=TaskWording("Please segment this {media} by this region: {region}.", KNOWN_ANSWER),
        build=_one_region,
        postprocess=_interactive,
        threshold=0.2,
    ),
    Task(
        name="object",
        description="the object of a video under one visual prompt; in images it is called interactive",
        media=("video",),
        takes=("regions",),
        wording=TaskWording("Please segment this {media} by this region: {region}.", KNOWN_ANSWER),
        build=_one_region,
        postprocess=_object,
        threshold=0.5,
    ),
    Task(
        name="vgd",
        description="all that is like one of several visual prompts, which phrases may be mixed with",
        media=ANY_MEDIA,
        takes=("regions", "phrases"),
        wording=TaskWording("Please segment this {media} by these regions: {regions}.", KNOWN_ANSWER),
        build=_regions,
        postprocess=_grounded,
        threshold=0.3,
    ),
)

TASKS: dict[str, Task] = {row.name: row for row in _ROWS}
DEFAULT_WORDING = Wording({row.name: row.wording for row in _ROWS})


def task(name: str) -> Task:
    """The task of this name. Raises PromptError, with the names there are."""
    if name not in TASKS:
        raise PromptError(f"There is no task {name!r}; the tasks are {', '.join(TASKS)}.")
    return TASKS[name]
