"""The `bottlekit` command: puts the verbs together in the order of the pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

import bottlekit
from bottlekit.cli import common
from bottlekit.cli.agent import agent
from bottlekit.cli.bench import bench
from bottlekit.cli.build import build
from bottlekit.cli.certs import certs
from bottlekit.cli.codecs import codecs
from bottlekit.cli.compare import compare
from bottlekit.cli.demo import demo
from bottlekit.cli.doctor import doctor
from bottlekit.cli.export import export
from bottlekit.cli.export_triton import export_triton
from bottlekit.cli.hybrid import hybrid
from bottlekit.cli.infer import infer
from bottlekit.cli.models import models
from bottlekit.cli.plan import plan
from bottlekit.cli.profile_layers import profile_layers
from bottlekit.cli.report import report
from bottlekit.cli.search import search
from bottlekit.cli.serve import serve
from bottlekit.cli.serve_layers import serve_layers
from bottlekit.cli.targets import targets
from bottlekit.cli.top import top
from bottlekit.cli.train import train
from bottlekit.cli.train_layers import train_layers

app = typer.Typer(
    name="bottlekit",
    help=(
        "Put a learned bottleneck into a classifier, cut it there, compile both halves, measure them, choose "
        "where to cut, and run the split between a device and a server.\n\n"
        "The pipe: train -> export -> build -> bench -> plan -> serve / infer. "
        "Try all of it on real data in a few minutes: [bold]bottlekit demo[/bold]."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_PIPE: tuple[Callable[..., None], ...] = (demo, train, search, export, build, bench, plan, serve, infer)
_PROFILES: tuple[Callable[..., None], ...] = (compare, report)
_LAYERS: tuple[Callable[..., None], ...] = (profile_layers, serve_layers, train_layers)
_WHAT_EXISTS: tuple[Callable[..., None], ...] = (models, targets, codecs, doctor)
for verb in _PIPE:
    app.command(rich_help_panel="The pipe")(verb)
for verb in (top, export_triton):
    app.command(rich_help_panel="Serving")(verb)
for verb in _PROFILES:
    app.command(rich_help_panel="Profiles")(verb)
for verb in _LAYERS:
    app.command(rich_help_panel="Schedules of layers")(verb)
for verb in _WHAT_EXISTS:
    app.command(rich_help_panel="What exists")(verb)

app.add_typer(certs, name="certs", rich_help_panel="Serving")
app.add_typer(agent, name="agent", rich_help_panel="What exists")
app.add_typer(hybrid, name="hybrid", rich_help_panel="The pipe")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"bottlekit {bottlekit.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the verb."""


def main() -> None:
    """Entry point of the `bottlekit` script."""
    sys.exit(common.run(app))
