"""PTX text → kernels of instructions, with names made unique and labels resolved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

IDENTIFIER = re.compile(r"[%$A-Za-z_][\w$]*")
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<kind>\w+)\s+(?:\.ptr\s.*\s)?(?P<name>[\w$]+)(?:\[(?P<count>\d+)\])?"
)
BYTES = {"b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2, "b32": 4, "u32": 4, "s32": 4}
BYTES |= {"f32": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8}


@dataclass(frozen=True)
class Instruction:
    """`@guard name.modifiers operands`; negated: of the guard. Operands in braces or brackets stay one string."""

    name: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None
    negated: bool

    @property
    def type(self) -> str:
        return self.modifiers[-1] if self.modifiers else ""

    def __str__(self) -> str:
        return f"{'.'.join((self.name, *self.modifiers))} {', '.join(self.operands)}"


@dataclass
class Kernel:
    """parameters, shared: offsets, in bytes. cluster: its blocks. registers: types. labels: instruction numbers."""

    name: str
    parameters: dict[str, int]
    parameter_sizes: list[int]
    shared: dict[str, int]
    shared_bytes: int
    cluster: int = 1
    registers: dict[str, str] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> dict[str, Kernel]:
    """The kernels of a module, by name."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"^\s*\.(loc|file|pragma)\b[^\n]*", "", text, flags=re.M)
    shared, shared_bytes = _layout(re.findall(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d*)\]", text))
    kernels = {}
    for head in re.finditer(r"\.entry\s+([\w$]+)\s*\((.*?)\)([^{;]*)\{", text, flags=re.S):
        declared = [PARAMETER.fullmatch(part) for part in split(head.group(2))]
        sizes = [BYTES[found["kind"]] * int(found["count"] or 1) for found in declared if found]
        aligned = [(found["align"] or str(BYTES[found["kind"]]), found["name"], str(size))
                   for found, size in zip(declared, sizes, strict=True) if found]  # fmt: skip
        kernel = Kernel(head.group(1), _layout(aligned)[0], sizes, shared, shared_bytes)
        blocks = re.search(r"\.reqnctapercluster\s+(\d+)", head.group(3))
        kernel.cluster = int(blocks.group(1)) if blocks else 1
        _Body(kernel).read(text, head.end())
        kernels[kernel.name] = kernel
    return kernels


def _layout(variables: list[tuple[str, str, str]]) -> tuple[dict[str, int], int]:
    """Offsets of (alignment, name, bytes), one behind the other, and their end."""
    offsets, end = {}, 0
    for align, name, size in variables:
        end = -(-end // int(align)) * int(align)
        offsets[name] = end
        end += int(size or 0)
    return offsets, end


def split(operands: str) -> list[str]:
    """At the commas outside braces and brackets."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", operands) if part.strip()]


class _Body:
    """Reads a kernel's body. Names of inner scopes get the scope's number, so that each is met once."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.scopes: list[dict[str, str]] = [{}]

    def read(self, text: str, position: int) -> None:
        for number, (kind, value, start) in enumerate(_statements(text, position)):
            if kind == "{":
                self._open(text, start, number)
            elif kind == "}":
                self.scopes.pop()
            elif kind == ":":
                self.kernel.labels[self._unique(value)] = len(self.kernel.instructions)
            elif value.startswith(".reg"):
                self._declare(value)
            elif not value.startswith("."):
                self.kernel.instructions.append(self._instruction(value))

    def _open(self, text: str, position: int, number: int) -> None:
        """A scope's own names: its labels, which may be used before they stand, and its registers."""
        names: dict[str, str] = {}
        depth = 0
        for kind, value, _ in _statements(text, position):
            depth += (kind == "{") - (kind == "}")
            if depth == 0 and kind == ":":
                names[value] = f"{value}@{number}"
            if depth == 0 and value.startswith(".reg"):
                names |= {name: f"{name}@{number}" for name in split(value.split(maxsplit=2)[2])}
        self.scopes.append(names)

    def _unique(self, name: str) -> str:
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), name)

    def _declare(self, statement: str) -> None:
        _, kind, names = statement.split(maxsplit=2)
        for name in split(names):
            count = re.fullmatch(r"(\S+)<(\d+)>", name)
            every = [name] if count is None else [f"{count.group(1)}{i}" for i in range(int(count.group(2)))]
            self.kernel.registers |= {self._unique(one): kind[1:] for one in every}

    def _instruction(self, statement: str) -> Instruction:
        found = re.fullmatch(r"(?:@(!?)([%$\w]+)\s+)?([\w.:]+)\s*(.*)", statement, flags=re.S)
        assert found is not None, statement
        negated, guard, opcode, operands = found.groups()
        operands = IDENTIFIER.sub(lambda name: self._unique(name.group()), operands)
        name, *modifiers = opcode.rstrip(".").split(".")
        guard = None if guard is None else self._unique(guard)
        return Instruction(name, tuple(modifiers), tuple(split(operands)), guard, negated == "!")


def _statements(text: str, position: int) -> Iterator[tuple[str, str, int]]:
    """(kind, text, end) up to the brace that closes the body; kind: "{", "}", ":" for labels or ";"."""
    pattern = re.compile(r"\s*(?:(?P<brace>[{}])|(?P<label>[$\w]+)\s*:(?!:)|(?P<statement>[^;]*);)", flags=re.S)
    depth = 1
    while depth:
        found = pattern.match(text, position)
        assert found is not None, text[position : position + 80]
        position = found.end()
        if found["brace"]:
            depth += 1 if found["brace"] == "{" else -1
            yield found["brace"], "", position
        elif found["label"]:
            yield ":", found["label"], position
        elif found["statement"].strip():
            yield ";", " ".join(found["statement"].split()), position
