"""The command line of evaluation: accuracy and speed of one bundle, or of several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from x2sam_rt.cli.options import Device, Threads, use_threads
from x2sam_rt.cli.terminal import console, progress_bar, reporting
from x2sam_rt.errors import ConfigError, require_extra

if TYPE_CHECKING:
    from x2sam_rt.evaluation.protocol import Protocol
    from x2sam_rt.evaluation.results import Evaluation
    from x2sam_rt.evaluation.runner import Job
    from x2sam_rt.evaluation.variants import Variant


def evaluate(
    bundles: Annotated[list[Path], typer.Argument(help="Folders made by `x2sam-rt export`.")],
    dataset: Annotated[
        str,
        typer.Option(help='"synthetic", "synthetic-long", "synthetic-streams", or a public set: docs/evaluation.md.'),
    ] = "synthetic",
    root: Annotated[Path | None, typer.Option(help="Folder of a public set; with --table, X2SAM's datas.")] = None,
    split: Annotated[str | None, typer.Option(help="Split; of synthetic: seen or unseen, default both.")] = None,
    protocol: Annotated[
        str, typer.Option(help="published: chunks with an empty memory each, as X2SAM's figures; live: one stream.")
    ] = "published",
    ask_every: Annotated[int | None, typer.Option(help="live: ask again after so many frames.")] = None,
    limit: Annotated[int | None, typer.Option(help="Examples of each part at most.")] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Only these; every bundle can also be run on torch in fp32.")
    ] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Only these.")] = None,
    knob: Annotated[
        list[str] | None,
        typer.Option(
            help="What to vary: memory=on,off, slots=1,4, image_size=, memory_scales=low,low+middle, memory_every=, "
            "memory_reads=, memory_gaps=, length=8,16,whole, wording=0,bundle, ask=once,every=8."
        ),
    ] = None,
    wordings: Annotated[str | None, typer.Option(help='"all": every published wording, and their spread.')] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out and count what cannot be read.")] = False,
    bert: Annotated[Path | None, typer.Option(help="Folder of bert-base-uncased, for GCG's recall.")] = None,
    table: Annotated[
        str | None, typer.Option(help='"paper": the tables of the paper, as far as --root has them.')
    ] = None,
    folder: Annotated[
        list[str] | None, typer.Option(help="--table: NAME=DIR of a data set that lies elsewhere.")
    ] = None,
    paper_scores: Annotated[Path | None, typer.Option(help="--table: JSON of the paper's scores, to compare.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for results, which a killed run goes on from.")
    ] = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")] = False,
) -> None:
    """Measure accuracy and speed, per bundle, backend and knob, in one table.

    Example: x2sam-rt eval bundle --knob memory=on,off -o results
    """
    from x2sam_rt.evaluation.parts import open_parts
    from x2sam_rt.evaluation.protocol import Protocol, protocol_name, wording_count
    from x2sam_rt.evaluation.report import evaluation_table, write_evaluation
    from x2sam_rt.evaluation.runner import Job
    from x2sam_rt.evaluation.variants import plan_variants

    with reporting():
        use_threads(threads)
        if output is not None and table is None:
            require_extra("plot")
        how = Protocol(protocol_name(protocol), limit, skip_bad)
        again = [] if ask_every is None else [f"ask=every={ask_every}"]
        knobs = [*(knob or ()), *again, *_all_wordings(wordings, wording_count(dataset))]
        variants = plan_variants(bundles, backend or (), precision or (), knobs)
        if table is not None:
            _run_paper(table, variants, how, root, folder or [], paper_scores, bert, output, device)
            return
        job = Job(dataset, split, open_parts(dataset, root, split, bert=bert), how, output, device)
        with progress_bar() as progress:
            found = _run(job, variants, progress)
        if output is not None:
            write_evaluation(found, output)
        if as_json:
            typer.echo(found.to_json(), nl=False)
        else:
            console.print(evaluation_table(found))


def _run(job: Job, variants: list[Variant], progress: Progress) -> Evaluation:
    from x2sam_rt.evaluation.runner import run_variants

    bar = progress.add_task(job.dataset, total=job.work(variants))
    return run_variants(
        job, variants, lambda variant, part: progress.update(bar, advance=1, description=f"{variant}: {part}")
    )


def _run_paper(
    table: str,
    variants: list[Variant],
    protocol: Protocol,
    root: Path | None,
    folders: list[str],
    scores: Path | None,
    bert: Path | None,
    output: Path | None,
    device: str | None,
) -> None:
    from x2sam_rt.evaluation.paper import find_rows, paper_table, read_paper_scores
    from x2sam_rt.evaluation.runner import Job

    if table != "paper":
        raise ConfigError(f"There is no table {table!r}; there is paper.")
    theirs = read_paper_scores(scores)
    available = find_rows(root, _folders(folders), bert=bert)
    found = {}
    with progress_bar() as progress:
        for row, parts in available.parts.items():
            place = None if output is None else output / row.key.replace("/", "_").replace(" ", "_")
            found[row] = _run(Job(row.dataset, row.split, parts, protocol, place, device), variants, progress)
            if place is not None:
                found[row].save(place / "results.json")
    console.print(paper_table(found, available.missing, theirs))


def _folders(texts: list[str]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in texts]
    if wrong := [
        text for text, (name, equals, path) in zip(texts, pairs, strict=True) if not (name and equals and path)
    ]:
        raise ConfigError(f"--folder {wrong[0]}: wanted NAME=DIR.")
    return {name: Path(path) for name, _, path in pairs}


def _all_wordings(wordings: str | None, count: int) -> list[str]:
    if wordings is None:
        return []
    if wordings != "all":
        raise ConfigError(f"--wordings {wordings}: wanted all; some of them: --knob wording=0,1.")
    return ["wording=" + ",".join(str(number) for number in range(count))]
