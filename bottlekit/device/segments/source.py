"""What both machines of a schedule have: the network's layers, and any group of them ready to run."""

from typing import List, NamedTuple, Tuple

from ..errors import BundleError
from ..runner import Runner


class Span(NamedTuple):
    """Layers `first`..`last`, counted from 0 and both included."""

    first: int
    last: int


class Edges(NamedTuple):
    """The names of the tensors that a group of layers reads from outside, and of those that are read behind it."""

    inputs: List[str]
    outputs: List[str]


class Segments:
    """The layers of one network; `sha256` says which one.

    Subclasses know the graph. Several threads may call every method.
    """

    sha256: str
    count: int
    input_name: str
    result_names: List[str]

    def edges(self, span: Span) -> Edges:
        """What a group of layers reads and makes."""
        raise NotImplementedError

    def crossing(self, boundary: int) -> List[str]:
        """The tensors made before layer `boundary` and read by it or behind it, results included."""
        raise NotImplementedError

    def opened(self, span: Span, exact: bool) -> Runner:
        """A runner of a group of layers, loaded, which stays so until this is closed.

        With `exact` the groups give, bit for bit, what the whole network gives when run as exactly: nothing is
        optimised that depends on where the network is cut. Several threads may use one.
        """
        raise NotImplementedError


def check_spans(segments: Segments, spans: List[Tuple[int, int]]) -> List[Span]:
    """The same as Spans. BundleError for layers that do not exist."""
    for first, last in spans:
        if not 0 <= first <= last < segments.count:
            raise BundleError(
                "there are no layers {}..{} in this network; they are 0..{}".format(first, last, segments.count - 1)
            )
    return [Span(first, last) for first, last in spans]
