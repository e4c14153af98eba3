"""The tasks: what can be asked, how it is put into words, and how the answer becomes masks."""

from x2sam_rt.tasks.instruction import REGION, Instruction, instruction
from x2sam_rt.tasks.marks import LinkedText, TextSpan, link
from x2sam_rt.tasks.table import DEFAULT_WORDING, TASKS, task
from x2sam_rt.tasks.task import Media, Task
from x2sam_rt.tasks.wording import TaskWording, Wording

__all__ = [
    "DEFAULT_WORDING",
    "REGION",
    "TASKS",
    "Instruction",
    "LinkedText",
    "Media",
    "Task",
    "TaskWording",
    "TextSpan",
    "Wording",
    "instruction",
    "link",
    "task",
]
