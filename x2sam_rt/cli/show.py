"""`x2sam-rt show`."""

from __future__ import annotations

import webbrowser
from functools import partial
from typing import Annotated

import typer

from x2sam_rt.cli.options import Bundle, Context, Device, Phrases, Threads
from x2sam_rt.cli.terminal import console, reporting


def show(
    bundle: Bundle,
    source: Annotated[
        str,
        typer.Argument(help="A video, image, folder, pattern or .txt list of images, a camera (0), an address."),
    ],
    prompt: Phrases = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    port: Annotated[int, typer.Option(help="0 = any that is free.")] = 0,
    start: Annotated[float, typer.Option(help="Begin at this second of the source.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="End before this second.")] = None,
    device: Device = None,
    context: Context = None,
    threads: Threads = None,
) -> None:
    """Watch a source with its masks in the browser, draw on it, and ask for something else meanwhile.

    It is the page of `serve` on this machine, for you alone (a token is in its address); Ctrl-C ends it.
    Example: x2sam-rt show bundle clip.mp4 --prompt "the jumping boy"
    """
    from x2sam_rt.errors import VideoError, require_extra
    from x2sam_rt.media.live import STANDARD_INPUT
    from x2sam_rt.media.source import Part
    from x2sam_rt.media.sources import open_source
    from x2sam_rt.runtime.bundle import load_manifest

    with reporting():
        require_extra("serve")
        from x2sam_rt.serve.own_source import OwnSource
        from x2sam_rt.serve.server import new_token, serve, token_from_environment
        from x2sam_rt.serve.settings import Settings

        if source == STANDARD_INPUT:
            raise VideoError("Standard input comes once, and a page may be loaded again: give a file or an address.")
        own = OwnSource(partial(open_source, source, Part(start, end)), tuple(prompt or ()))
        load_manifest(bundle)  # what is no bundle is said here, not by a worker
        token = token_from_environment() or new_token()
        settings = Settings(
            bundle, port=port, devices=(device,), threads=threads, context=context, token=token, drain_seconds=0
        )

        def started(taken: int) -> None:
            address = f"http://{settings.host}:{taken}/#token={token}"
            console.print(f"{own.name}: {address} (Ctrl-C ends it)", soft_wrap=True)
            if open_page:
                webbrowser.open(address)

        serve(settings, own, started)
