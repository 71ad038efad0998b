"""What every verb shares: where human words and JSON go, how errors end, the common options.

Human words (progress, advice, errors) go to stderr; what was asked for goes to stdout, so that
`bottlekit plan ... --json | jq` always works. Colours switch off with NO_COLOR or when not on a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.errors import BottlekitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no advice, only the result.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
EnginesOption = Annotated[
    Path | None,
    typer.Option(help="Folder of engines that `bottlekit build` wrote; without it the bundle's ONNX files run."),
]
EnginesTargetOption = Annotated[str | None, typer.Option(help="Which target's engines to take from --engines.")]

_quiet = False


def set_quiet(quiet: bool) -> None:
    """Silence `say` and progress bars for the rest of this process."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether the user asked for silence."""
    return _quiet


def stderr_console() -> Console:
    """The console for human words."""
    from rich.console import Console

    return Console(stderr=True, quiet=_quiet, highlight=False)


def stdout_console() -> Console:
    """The console for results; wide when it is not a terminal, so that tables are not folded in files."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def say(message: str) -> None:
    """One human line on stderr, unless --quiet."""
    if not _quiet:
        print(message, file=sys.stderr)


def emit(result: Any, human: Callable[[], object], as_json: bool) -> None:
    """The verb's result: as JSON on stdout, or through `human`, which prints it for people."""
    if as_json:
        json.dump(result, sys.stdout, indent=2, allow_nan=False, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        human()


def command_line() -> str:
    """The command as typed, for the sidecars."""
    import shlex

    return shlex.join(["bottlekit", *sys.argv[1:]])


def run(app: Callable[[], object]) -> int:
    """Run the Typer application; turn bottlekit's errors into one line and an exit code."""
    try:
        app()
    except BottlekitError as error:
        print(f"bottlekit: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, MemoryError) as error:
        # A full disk, a vanished folder, no memory: nothing of ours is wrong, and a traceback helps nobody.
        print(f"bottlekit: {' '.join(str(error).split()) or 'out of memory'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bottlekit: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        extra = _extra_of(error.name or "")
        if extra is None:
            raise
        print(
            f"bottlekit: this verb needs the Python package '{error.name}', which is not installed; "
            f"type: pip install 'bottlekit[{extra}]'",
            file=sys.stderr,
        )
        return 1
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    return 0


_EXTRAS = {
    "train": ("accelerate", "safetensors", "sklearn", "torch", "torchvision", "onnxscript"),
    "build": ("onnx", "polygraphy"),
    "hybrid": ("brevitas",),
    "report": ("jinja2", "matplotlib"),
    "rtx": ("tensorrt_rtx",),
    "tls": ("cryptography",),
    "metrics": ("prometheus_client",),
    "cluster": ("ray",),
    "triton": ("grpc", "google"),
}


def _extra_of(module: str) -> str | None:
    """The extra of pyproject.toml that brings a module, or None if none does."""
    root = module.split(".")[0]
    return next((extra for extra, modules in _EXTRAS.items() if root in modules), None)
