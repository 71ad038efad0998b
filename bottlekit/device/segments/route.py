"""A schedule file as what has to be done, in order."""

from typing import List, NamedTuple, Optional

from ..errors import BundleError
from ..fields import Fields
from ..files import read_json
from .arrays import CODECS
from .source import Segments, Span

FORMAT = "bottlekit-schedule"
VERSION = 1
MACHINES = ("mobile", "cloud")


class Step(NamedTuple):
    """Run these layers on that machine."""

    machine: str
    span: Span


class Route(NamedTuple):
    """All layers once, in order. `codec`: how features are sent, None: as they are. `latency_ms`: as planned."""

    sha256: str
    steps: List[Step]
    codec: Optional[str]
    latency_ms: float

    @property
    def there(self) -> List[Span]:
        """The segments of the other machine, in order."""
        return [step.span for step in self.steps if step.machine == "cloud"]


def route_from_file(path: str) -> Route:
    """The route that `bottlekit plan --switches` wrote. BundleError, which names the field, for anything else."""
    values = Fields(read_json(path, "schedule"), path)
    if values.any("format") != FORMAT or values.any("version") != VERSION:
        raise BundleError(
            "{} is no schedule (format {!r}, version {!r}); `bottlekit plan --switches` writes one for one "
            "link".format(path, values.any("format"), values.any("version"))
        )
    codec = values.text("codec")
    if codec not in ("none",) + CODECS:
        raise values.error("codec", "none, {}".format(", ".join(CODECS)))
    schedule = values.object("schedule")
    steps = steps_from_fields(schedule, path)
    return Route(
        values.object("model").sha256("sha256"),
        steps,
        None if codec == "none" else codec,
        schedule.number("latency_ms", 0.0, 1e12),
    )


def steps_from_fields(schedule: Fields, path: str) -> List[Step]:
    """The steps of a schedule's `segments`: every layer once, in order, or BundleError."""
    steps = []
    layers = schedule.any("segments")
    if not isinstance(layers, list):
        raise schedule.error("segments", "a list")
    for one in layers:
        fields = Fields(one, path, "schedule.segments")
        machine, first, last = (fields.any(name) for name in ("machine", "first", "last"))
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (first, last))
        if machine not in MACHINES or not whole:
            raise schedule.error("segments", "a list of machine, first and last")
        steps.append(Step(machine, Span(first, last)))
    expected = 0
    for step in steps:
        if step.span.first != expected or step.span.last < step.span.first:
            raise BundleError(
                "{}: the layers {}..{} come where layer {} should; every layer runs once, in order".format(
                    path, step.span.first, step.span.last, expected
                )
            )
        expected = step.span.last + 1
    if not steps:
        raise BundleError("{} schedules no layer".format(path))
    return steps


def check_route(route: Route, segments: Segments, where: str) -> None:
    """Raise BundleError unless the route is one through these layers."""
    if route.sha256 != segments.sha256:
        raise BundleError(
            "{} is for another network: {}... there, {}... here; plan again with profiles of this one".format(
                where, route.sha256[:12], segments.sha256[:12]
            )
        )
    count = route.steps[-1].span.last + 1
    if count != segments.count:
        raise BundleError(
            "{} has {} layers, the network {}; plan again with this version of bottlekit".format(
                where, count, segments.count
            )
        )
