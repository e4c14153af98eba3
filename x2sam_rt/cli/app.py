"""The command line: export, run, verify, inspect, profile, serve, eval, data, train."""

from __future__ import annotations

import typer

from x2sam_rt.cli import data, eval, export, inspect, profile, run, serve, train, verify
from x2sam_rt.cli.options import EPILOG

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Run X2SAM as a live stream.", epilog=EPILOG)
for command in (export.export, run.run, verify.verify, inspect.inspect, profile.profile, serve.serve):
    app.command(epilog=EPILOG)(command)
app.command("eval", epilog=EPILOG)(eval.evaluate)
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")

if __name__ == "__main__":
    app()
