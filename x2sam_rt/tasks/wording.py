"""The words of the questions and known answers, task by task, as data that users can replace."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from x2sam_rt.documents import MOST_BYTES, parse_json, read_plain_file, shown
from x2sam_rt.errors import ConfigError
from x2sam_rt.tasks.marks import Mark, MarkedText, parse_marks


@dataclass(frozen=True)
class TaskWording:
    """Templates of one task, with placeholders in braces.

    question: what stands after the image or video; {media} is "image" or "video", the others are the task's own.
    answer: the sentence known beforehand, with one <SEG>; None where the model must find the answer itself.
    explained: the question when an explanation is asked for as well. about_phrase: the question about a phrase that is
    no sentence ("the thing to sit on"); None where the task makes no difference.
    """

    question: str
    answer: str | None = None
    explained: str | None = None
    about_phrase: str | None = None

    def template(self, *, explain: bool, phrase: bool) -> str | None:
        """The question to fill in; None where the task cannot explain."""
        if explain:
            return self.explained
        return self.about_phrase if phrase and self.about_phrase is not None else self.question


@dataclass(frozen=True, eq=False)
class Wording:
    """One `TaskWording` per task name."""

    tasks: Mapping[str, TaskWording]

    def __getitem__(self, task: str) -> TaskWording:
        return self.tasks[task]

    @classmethod
    def load(cls, path: str | Path, default: Wording) -> Wording:
        """The wording in a JSON file; a task or template it does not name keeps the default.

        Raises ConfigError for unknown tasks or keys, and for templates without the placeholders of the default.
        """
        try:
            content = read_plain_file(Path(path), MOST_BYTES)
        except ConfigError as error:
            raise ConfigError(f"Cannot read the wording: {error}") from error
        return default.parsed(content, str(path))

    def parsed(self, content: bytes, origin: str) -> Wording:
        """As `changed`, for the bytes of a JSON file."""
        return self.changed(parse_json(content, origin), origin)

    def changed(self, document: object, origin: str) -> Wording:
        """This wording with the templates of a parsed JSON document put in; `origin` names it in errors."""
        if not isinstance(document, dict):
            raise ConfigError(f"{origin}: a JSON object of tasks is wanted, not {type(document).__name__}.")
        if unknown := sorted(set(document) - set(self.tasks)):
            raise ConfigError(f"{origin}: unknown tasks {shown(unknown)}; known are {sorted(self.tasks)}.")
        changed = {name: _merge(self.tasks[name], entry, f"{origin}: {name}") for name, entry in document.items()}
        return Wording({**self.tasks, **changed})

    def save(self, path: str | Path) -> None:
        document = {name: asdict(entry) for name, entry in self.tasks.items()}
        Path(path).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def fill(template: str, values: Mapping[str, MarkedText]) -> MarkedText:
    """A template with its placeholders filled; words that touch become one piece."""
    pieces: list[str | Mark] = []
    for literal, name in _template_parts(template):
        for piece in (*parse_marks(literal), *(values[name] if name is not None else ())):
            if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
                pieces[-1] += piece
            else:
                pieces.append(piece)
    return tuple(pieces)


def _template_parts(template: str) -> Iterator[tuple[str, str | None]]:
    """Pairs of literal text and the placeholder behind it. Raises ValueError for anything but plain names in braces:
    format specifications and look-ups would let a file ask for gigabytes of blanks, or for attributes."""
    for literal, name, specification, conversion in string.Formatter().parse(template):
        if name is not None and (specification or conversion or not name.isidentifier()):
            raise ValueError(f"the placeholder {{{name}}} may only be a name")
        yield literal, name


def _merge(default: TaskWording, entry: object, origin: str) -> TaskWording:
    if not isinstance(entry, dict):
        raise ConfigError(f"{origin}: a JSON object of templates is wanted, not {type(entry).__name__}.")
    known = [field.name for field in fields(TaskWording)]
    if unknown := sorted(set(entry) - set(known)):
        raise ConfigError(f"{origin}: unknown keys {shown(unknown)}; known are {known}.")
    for key, template in entry.items():
        _check(getattr(default, key), template, f"{origin}.{key}")
    return replace(default, **entry)


def _check(default: str | None, template: object, origin: str) -> None:
    if default is None or template is None:
        if default is not template:
            raise ConfigError(f"{origin}: found {shown(template)}, but this task has {default!r} there.")
        return
    if not isinstance(template, str):
        raise ConfigError(f"{origin}: a text is wanted, not {shown(template)}.")
    wanted, found = _placeholders(default, origin) - {"media"}, _placeholders(template, origin)
    if found - {"media"} != wanted:
        raise ConfigError(
            f"{origin}: placeholders {sorted(found)}; {sorted(wanted)} are wanted ({{media}} is optional)."
        )
    seg = Mark.SEG.value
    if template.count(seg) != default.count(seg):
        raise ConfigError(f"{origin}: {template.count(seg)} times {seg}; {default.count(seg)} wanted.")


def _placeholders(template: str, origin: str) -> set[str]:
    try:
        return {name for _, name in _template_parts(template) if name is not None}
    except ValueError as error:
        raise ConfigError(f"{origin}: {error} (write {{{{ and }}}} for braces).") from error
