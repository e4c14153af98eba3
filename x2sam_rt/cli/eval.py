"""The command line of evaluation: accuracy and speed of one bundle, or of several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from x2sam_rt.cli.terminal import console, print_text, progress_bar, reporting


def evaluate(
    bundles: Annotated[list[Path], typer.Argument(help="Folders made by `x2sam-rt export`.")],
    dataset: Annotated[
        str, typer.Option(help='"synthetic", made up as it runs, or a public set: docs/evaluation.md.')
    ] = "synthetic",
    root: Annotated[Path | None, typer.Option(help="Folder of a public set.")] = None,
    split: Annotated[str | None, typer.Option(help="Split; of synthetic: seen or unseen, default both.")] = None,
    limit: Annotated[int | None, typer.Option(help="Examples of each part at most.")] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Only these; every bundle can also be run on torch in fp32.")
    ] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Only these.")] = None,
    knob: Annotated[list[str] | None, typer.Option(help="What to vary: memory=on,off or slots=1,2,4.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Show the language model the first frame only.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for results.json and the picture.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")] = False,
) -> None:
    """Measure accuracy and speed, per bundle, backend and knob, in one table.

    Example: x2sam-rt eval bundle --knob memory=on,off -o results
    """
    from x2sam_rt.evaluation.datasets import open_parts
    from x2sam_rt.evaluation.report import evaluation_table, write_evaluation
    from x2sam_rt.evaluation.runner import Protocol, run_variants, work_of
    from x2sam_rt.evaluation.variants import plan_variants

    with reporting():
        protocol = Protocol(limit, live)
        variants = plan_variants(bundles, backend or (), precision or (), knob or ())
        parts = open_parts(dataset, root, split)
        with progress_bar() as progress:
            bar = progress.add_task("evaluate", total=work_of(parts, variants, protocol))
            found = run_variants(
                dataset,
                split,
                parts,
                variants,
                protocol,
                lambda variant, part: progress.update(bar, advance=1, description=f"{variant}: {part}"),
            )
        if output is not None:
            write_evaluation(found, output)
        if as_json:
            print_text(found.to_json())
        else:
            console.print(evaluation_table(found))
