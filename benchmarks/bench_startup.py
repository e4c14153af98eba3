"""How long the command line makes a user wait before anything is done, against a bare Typer program.

    python benchmarks/bench_startup.py

Each side is a fresh Python process, in turns; writes benchmarks/results/startup.json. Exit 1 when help or completion
takes over 3 times what it takes the bare program. What the time goes into: python -X importtime -m x2sam_rt.cli.app.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from timer import compare, save

LIMIT = 3.0  # times the bare program
ROUNDS = 15
OURS = "from x2sam_rt.cli.app import app; app(prog_name='x2sam-rt')"
BARE = """
import typer
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Two commands.")
@app.command()
def first(number: int = 1) -> None:
    "The first."
@app.command()
def second(number: int = 1) -> None:
    "The second."
app(prog_name="bare")
"""


def process(code: str, *arguments: str, **variables: str) -> Callable[[], object]:
    command = [sys.executable, "-c", code, *arguments]
    environment = os.environ | variables
    return lambda: subprocess.run(command, env=environment, capture_output=True, check=True)


def completing(name: str) -> dict[str, str]:
    """What bash sets when Tab is pressed behind a program's name."""
    variable = "_" + name.upper().replace("-", "_") + "_COMPLETE"
    return {variable: "complete_bash", "COMP_WORDS": f"{name} ", "COMP_CWORD": "1"}


CASES: Sequence[tuple[str, Callable[[], object], Callable[[], object]]] = (
    ("import x2sam_rt | import typing", process("import x2sam_rt"), process("import typing")),
    ("--help", process(OURS, "--help"), process(BARE, "--help")),
    ("run --help", process(OURS, "run", "--help"), process(BARE, "first", "--help")),
    ("completion", process(OURS, **completing("x2sam-rt")), process(BARE, **completing("bare"))),
)


def main() -> int:
    table = Table("what", "x2sam-rt, ms", "bare, ms", "ratio", title="start of a process, medians")
    rows = []
    for name, ours, bare in CASES:
        measured = compare(ours, bare, rounds=ROUNDS)
        ratio = 1 / measured.speedup
        table.add_row(name, f"{measured.own.median_ms:.0f}", f"{measured.baseline.median_ms:.0f}", f"{ratio:.2f}")
        rows.append({"what": name, "ratio": round(ratio, 3), "comparison": measured, "holds": ratio <= LIMIT})
    Console().print(table)
    print(f"written to {save('startup', rows)}")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
