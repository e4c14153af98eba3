"""The command line: export, run, verify, inspect, profile, batch, serve, show, eval, data, train."""

from __future__ import annotations

from typing import Annotated

import typer

import x2sam_rt
from x2sam_rt.cli import batch, data, demo, eval, export, inspect, profile, run, serve, show, train, verify
from x2sam_rt.cli.options import EPILOG

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Run X2SAM as a live stream.", epilog=EPILOG)
commands = (
    export.export,
    run.run,
    batch.batch,
    verify.verify,
    inspect.inspect,
    profile.profile,
    serve.serve,
    show.show,
    demo.demo_media,
)
for command in commands:
    app.command(epilog=EPILOG)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"x2sam-rt {x2sam_rt.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Run X2SAM as a live stream."""


app.command("eval", epilog=EPILOG)(eval.evaluate)
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")

if __name__ == "__main__":
    app()
