"""Cut a network in two at the output of one of its modules."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx, nn

from bottlekit.errors import UnknownNameError, UsageError

_IN_PLACE_OPERATORS = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


def head_and_tail(network: nn.Module, module_path: str) -> tuple[nn.Module, nn.Module]:
    """The network up to and including the output of `module_path`, and the rest of it.

        image (n, 3, h, w) -> head -> feature (n, c, h', w') -> tail -> logits (n, classes)

    `tail(head(x))` runs the same operations in the same order as `network(x)`, so the results are equal to the
    bit. Both halves hold the network's own modules, not copies: training, moving or loading one is seen by the
    other, and the network's state dict keeps its names. Modules follow train and eval mode; a forward method that
    asks for `self.training` in its own code would be fixed in the mode it is cut in.

    Raises UnknownNameError for a path that is no module, and UsageError, naming the tensors, where anything
    but that one output crosses the cut.
    """
    head, tail = segments(network, [module_path])
    return head, tail


def segments(network: nn.Module, module_paths: Sequence[str]) -> list[nn.Module]:
    """The network in pieces, cut at the outputs of several modules, in the order of execution.

        image -> segment -> feature -> segment -> ... -> segment -> logits          one more than there are cuts

    As `head_and_tail`, which is the case of one path: chained they equal the network to the bit and share its
    modules. Raises UnknownNameError and UsageError as it does, and UsageError where the paths are not in order.
    """
    for path in module_paths:
        _check_path(network, path)
    graph, outputs = _traced(network)
    pieces: list[nn.Module] = []
    before: set[fx.Node] = set()
    start: fx.Node | None = None
    for path in module_paths:
        cut = _single_output(outputs.get(path, []), path)
        head_nodes = _ancestors(cut)
        _check_crossing(graph, head_nodes, cut, path)
        if start is not None and (start not in head_nodes or start is cut):
            raise UsageError(f"the cut at '{path}' must come behind the one before it in {', '.join(module_paths)}")
        pieces.append(_piece(network, graph, before, start, cut))
        before, start = head_nodes, cut
    return [*pieces, _piece(network, graph, before, start, None)]


def cut_points(network: nn.Module) -> list[str]:
    """The paths of all modules at whose output `head_and_tail` can cut, in the order in which they finish.

    A block and the last module in it are both named, although the cut is the same.
    Raises UsageError for a network that cannot be traced.
    """
    graph, outputs = _traced(network)
    points = []
    for path, results in outputs.items():
        try:
            cut = _single_output(results, path)
            _check_crossing(graph, _ancestors(cut), cut, path)
        except UsageError:
            continue
        points.append(path)
    return points


class _RecordingTracer(fx.Tracer):
    """A tracer that notes what every module returned, also modules that it traces through."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, list[Any]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Modules without children stay whole, so that what depends on train/eval mode (torchvision's
        # StochasticDepth, say) is decided when the halves run and not once, here; and modules that ask for it,
        # because their forward cannot be traced.
        whole = not any(m.children()) or getattr(m, "traced_whole", False)
        return super().is_leaf_module(m, module_qualified_name) or whole

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        self.outputs.setdefault(self.path_of_module(m), []).append(output)
        return output


def _traced(network: nn.Module) -> tuple[fx.Graph, dict[str, list[Any]]]:
    tracer = _RecordingTracer()
    try:
        graph = tracer.trace(network)
    except Exception as error:
        # Tracing runs the network's own Python code on stand-ins, and that code may raise anything.
        raise UsageError(
            f"{type(network).__name__} cannot be cut, because its forward depends on values that only exist "
            f"while it runs ({type(error).__name__}: {error})"
        ) from error
    return graph, tracer.outputs


def _check_path(network: nn.Module, path: str) -> None:
    module = network
    parents: list[str] = []
    for name in path.split("."):
        children = dict(module.named_children())
        if name not in children:
            where = f"module of {'.'.join(parents) or type(network).__name__}"
            raise UnknownNameError(where, name, children, f"It was asked for as '{path}'.")
        module = children[name]
        parents.append(name)


def _single_output(outputs: list[Any], path: str) -> fx.Node:
    if len(outputs) != 1:
        raise UsageError(
            f"cannot cut at '{path}': it runs {len(outputs)} times in one forward pass, and a cut needs exactly "
            "one; choose the block around it"
        )
    if not isinstance(outputs[0], fx.Proxy):
        raise UsageError(
            f"cannot cut at '{path}': it returns a {type(outputs[0]).__name__}, and a cut needs one tensor"
        )
    node: fx.Node = outputs[0].node
    return node


def _ancestors(cut: fx.Node) -> set[fx.Node]:
    """All nodes that the cut's value is computed from, itself included."""
    found: set[fx.Node] = set()
    waiting = [cut]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


def _check_crossing(graph: fx.Graph, head_nodes: set[fx.Node], cut: fx.Node, path: str) -> None:
    needed = _ancestors(_output_of(graph))
    crossing = [
        node
        for node in graph.nodes
        if node in head_nodes
        and node.op != "get_attr"  # a parameter is at hand on both sides
        and any(user in needed and user not in head_nodes for user in node.users)
    ]
    if crossing != [cut]:
        names = ", ".join(_name_of(node) for node in crossing) or "none"
        raise UsageError(
            f"cannot cut at '{path}': the rest of the network needs {len(crossing)} tensors from before the cut "
            f"({names}), and only the output of '{path}' may cross; choose the block around it"
        )


def _name_of(node: fx.Node) -> str:
    if node.op == "call_module":
        return f"the output of {node.target}"
    if node.op == "placeholder":
        return f"the input {node.name}"
    return f"the result of {node.name}"


def _output_of(graph: fx.Graph) -> fx.Node:
    outputs: list[fx.Node] = graph.find_nodes(op="output")
    return outputs[0]


def _piece(
    network: nn.Module, graph: fx.Graph, before: set[fx.Node], start: fx.Node | None, end: fx.Node | None
) -> nn.Module:
    """What lies between two cuts; `before` is what the first one is computed from. None: from the image, to the
    logits."""
    until = _ancestors(_output_of(graph) if end is None else end)
    piece = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if start is not None:
        feature = piece.placeholder("feature")
        if any(_writes_into(user, start, network) for user in start.users if user in until):
            # The network may overwrite its own tensors, but the feature belongs to whoever calls this piece.
            feature = piece.call_method("clone", (feature,))
        copies[start] = feature
    for node in graph.nodes:
        if node in until and (node not in before or node.op == "get_attr"):
            copies[node] = piece.node_copy(node, lambda n: copies[n])
    if end is not None:
        piece.output(copies[end])
    return _module_from_graph(network, piece, "Head" if start is None else "Tail" if end is None else "Middle")


def _writes_into(user: fx.Node, value: fx.Node, network: nn.Module) -> bool:
    """Whether a node overwrites the value it reads."""
    if user.op == "call_module":
        return bool(getattr(network.get_submodule(str(user.target)), "inplace", False))
    if user.op == "call_method":
        return str(user.target).endswith("_")
    if user.target in _IN_PLACE_OPERATORS:
        return user.args[0] is value
    return bool(user.kwargs.get("inplace", False))


def _module_from_graph(network: nn.Module, graph: fx.Graph, name: str) -> nn.Module:
    graph.lint()
    half = fx.GraphModule(network, graph, class_name=name)
    return half.train(network.training)
