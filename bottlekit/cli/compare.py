"""The verb `bottlekit compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.cli.common import JsonOption, QuietOption, emit, say, set_quiet, stdout_console
from bottlekit.errors import ReportError, UsageError

if TYPE_CHECKING:
    from bottlekit.report.compare import Comparison


def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A profile of `bottlekit bench`.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another, taken alike on the same machine.")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Exit with 1 if this holds of any phase: 'p95>+5%'; may be given again. Quote it.",
            show_default=False,
        ),
    ] = None,
    despite: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD",
            help="Compare although this differs: onnxruntime, threads, origin ... or all; again for more.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="p50, p90, p95, p99, mean_ms, energy_mj, net_energy_mj, payload_bytes or accuracy; again for "
            "more. Without it: those of the conditions, or the usual ones.",
            show_default=False,
        ),
    ] = None,
    bundle: Annotated[
        list[str] | None, typer.Option(help="Only this bundle; again for more.", show_default=False)
    ] = None,
    phase: Annotated[
        list[str] | None, typer.Option(help="Only this phase; again for more.", show_default=False)
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals of change.")] = 0.95,
    resamples: Annotated[int, typer.Option(help="How often the bootstrap draws both sides again.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap: the same seed gives the same intervals.")] = 0,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV, too.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown, too.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare two profiles, phase by phase: what changed, how surely, and whether it is too much.

    A condition is a metric, > or <, and a signed change in % or in the metric's unit. It holds if the change is
    beyond the limit and its confidence interval excludes no change. Profiles that were not taken alike are refused,
    and so is a condition that cannot be judged: a percentile of too few samples, an energy that nobody metered.

    Exit status: 0 if no condition holds, 1 if one does, 2 if the comparison or a condition of it is refused.

        bottlekit compare before.json after.json --fail-if "p95>+5%" --fail-if "energy_mj>+3%"

        bottlekit compare old.json new.json --despite onnxruntime
    """
    from bottlekit.report.compare import Options, compared
    from bottlekit.report.comparison import comparison_document, comparison_table
    from bottlekit.report.conditions import condition_from_text
    from bottlekit.report.intervals import Sureness
    from bottlekit.report.render import csv_from_table, markdown_from_table

    set_quiet(quiet)
    options = Options(
        conditions=[condition_from_text(text) for text in fail_if or ()],
        metrics=metric or (),
        bundles=bundle or (),
        phases=phase or (),
        despite=despite or (),
        sureness=Sureness(confidence, resamples, seed),
    )
    first, second = _profile(before), _profile(after)
    result = compared(first, second, options, str(before), str(after))
    table = comparison_table(result, before.name, after.name)
    if csv is not None:
        _write(csv, csv_from_table(table))
    if markdown is not None:
        _write(markdown, markdown_from_table(table))

    def show() -> None:
        from bottlekit.report.render import rich_from_table

        console = stdout_console()
        console.print(rich_from_table(table, console.width))

    document = comparison_document(result, _side(before, first), _side(after, second))
    emit(document, show, as_json)
    _remark(result)
    if result.failed:
        raise typer.Exit(1)


def _profile(path: Path) -> dict[str, Any]:
    """The profile of a file. One that cannot be read is exit status 2 here, as 1 says that a condition holds."""
    from bottlekit.report.profiles import profile_from_file

    try:
        return profile_from_file(path)
    except ReportError as error:
        raise UsageError(str(error)) from error


def _side(path: Path, profile: dict[str, Any]) -> dict[str, Any]:
    """Which file was compared."""
    from bottlekit.device.files import sha256_of_file

    return {
        "profile": str(path),
        "sha256": sha256_of_file(str(path)),
        "command": profile["command"],
        "bottlekit": profile["bottlekit"],
    }


def _remark(result: Comparison) -> None:
    """The verdicts to act on, one line each."""
    for judgement in result.judgements:
        change = judgement.change
        low, high = change.interval or (None, None)
        interval = "counted" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f} %"
        words = f"{change.where} changed by {100 * (change.change or 0.0):+.1f} % ({interval})"
        if judgement.verdict == "fails":
            say(f"{judgement.condition.text} holds: {words}")
        elif judgement.verdict == "uncertain":
            say(f"{judgement.condition.text} may be noise: {words}; measure longer to be sure")


def _write(path: Path, text: str) -> None:
    from bottlekit.device.files import whole_file

    with whole_file(str(path)) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
