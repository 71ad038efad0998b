"""Whether a target can take a bundle's graphs, found out before anything is compiled or sent anywhere.

::

    part.onnx + the target's facts --lint--> findings --(none)--> compiled
                                                 +---(any)--> told in one line, and nothing is compiled

Only the `onnx` package is needed: what a Jetson's parser reads can be checked on any machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bottlekit.build.job import Job
from bottlekit.errors import EngineError
from bottlekit.targets.loader import TargetSpec

if TYPE_CHECKING:
    from pathlib import Path

    from bottlekit.export.lint import Finding, ParserFacts


@dataclasses.dataclass(frozen=True)
class Checked:
    """What the lint says of one part of a bundle; it objects to nothing where `findings` is empty."""

    bundle: str
    part: str
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


def parser_facts(target: TargetSpec, has_profile: bool, plugins: bool = False) -> ParserFacts:
    """What the lint needs to know of a target.

    `has_profile` says that a build gives free dimensions a range, `plugins` that it loads the plugin library.
    """
    # Here, because it needs onnx, which a machine that only runs engines does not have.
    from bottlekit.export.lint import ParserFacts

    return ParserFacts(target.parser_version, target.opset, target.uint8_edges is not False, has_profile, plugins)


def check_jobs(jobs: Sequence[Job]) -> list[Checked]:
    """Lint the graph of every job against its target's facts; no compiler is needed."""
    return [Checked(job.bundle.name, job.part, tuple(findings_of(job))) for job in jobs]


def findings_of(job: Job, onnx_path: Path | None = None) -> list[Finding]:
    """What the target of `job` would choke on in its graph, or in a graph made of it at `onnx_path`."""
    import onnx

    from bottlekit.export.lint import lint

    facts = parser_facts(job.target, has_profile=job.bundle.dynamic_batch, plugins=job.has_plugin)
    model = onnx.load(str(onnx_path or job.onnx_path), load_external_data=False)
    if job.has_plugin and onnx_path is None:
        from bottlekit.export.plugin_node import with_plugin

        model = with_plugin(model, job.part, job.bundle.codec)
    return lint(model, facts)


def require_clean(job: Job, onnx_path: Path | None = None) -> None:
    """Raise EngineError with every finding in one line; do nothing where there is none."""
    findings = findings_of(job, onnx_path)
    if findings:
        raise EngineError(
            f"{job.target.name} cannot take the {job.part} of {job.bundle.name}: "
            f"{' | '.join(map(str, findings))} (only check: bottlekit build {job.bundle.path} "
            f"--target {job.target.name} --check-only)"
        )
