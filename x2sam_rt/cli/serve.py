"""`x2sam-rt serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from x2sam_rt.cli.options import Bundle, Context, OnRay
from x2sam_rt.cli.terminal import reporting


def serve(
    bundle: Bundle,
    host: Annotated[str, typer.Option(help="Address; others than this machine's own want a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 = any that is free.")] = 8000,
    device: Annotated[
        list[str] | None, typer.Option(help='"cpu" or "cuda:N", a worker each; repeat for several.')
    ] = None,
    memory: Annotated[float | None, typer.Option(help="GiB for sessions; default: half of what is free.")] = None,
    sessions: Annotated[int, typer.Option(help="At most so many, whatever the memory.")] = 256,
    max_pixels: Annotated[int, typer.Option(help="Pixels of a frame.")] = 1920 * 1080,
    save_every: Annotated[int, typer.Option(help="Frames between a session's snapshots; 0 = none.")] = 30,
    idle_seconds: Annotated[float, typer.Option(help="A session that says nothing for so long is closed.")] = 60,
    total_seconds: Annotated[float, typer.Option(help="A session is closed after so long.")] = 4 * 3600,
    drain_seconds: Annotated[float, typer.Option(help="What sessions get to end when the server does.")] = 20,
    origin: Annotated[list[str] | None, typer.Option(help="A page's origin that may call; repeat for several.")] = None,
    threads: Annotated[int | None, typer.Option(help="PyTorch's, of each worker.")] = None,
    context: Context = None,
    on_ray: OnRay = None,
    replicas: Annotated[
        int | None, typer.Option(help="On a cluster: servers; default: one per GPU, or without GPUs one per machine.")
    ] = None,
) -> None:
    """Serve streams to others: frames and words over WebSockets, masks back.

    Clients bring the token of the environment variable X2SAM_RT_TOKEN, where it is set.
    """
    from x2sam_rt.errors import require_extra

    if on_ray is not None and (device or not port):
        raise typer.BadParameter(
            "Ray chooses the devices and wants a port: no --device, no --port 0", param_hint="--ray"
        )
    with reporting():
        require_extra("serve")
        from x2sam_rt.serve.server import serve, token_from_environment
        from x2sam_rt.serve.settings import Settings

        settings = Settings(
            bundle,
            host=host,
            port=port,
            devices=tuple(device or (None,)),
            threads=threads,
            context=context,
            token=token_from_environment(),
            origins=tuple(origin or ()),
            memory=None if memory is None else int(memory * 2**30),
            sessions=sessions,
            most_pixels=max_pixels,
            save_every=save_every,
            idle_seconds=idle_seconds,
            total_seconds=total_seconds,
            drain_seconds=drain_seconds,
        )
        if on_ray is None:
            serve(settings)
            return
        require_extra("ray")
        from x2sam_rt.serve.cluster import serve_on_cluster

        serve_on_cluster(settings, on_ray, replicas)
