"""Schedules over real sockets, with layers of plain numpy: what crosses, what is refused, what is lost."""

import contextlib
import json
import os
import socket
import struct
import sys
import threading

import numpy as np
import pytest

from bottlekit.device.errors import (
    BundleError,
    PayloadError,
    ServerBusyError,
    ServerUnreachableError,
    UsageError,
    WireError,
)
from bottlekit.device.runner import Runner, TensorInfo
from bottlekit.device.segments.arrays import arrays_from_wire, wire_from_arrays
from bottlekit.device.segments.client import SegmentClient
from bottlekit.device.segments.route import Route, Step, check_route, route_from_file
from bottlekit.device.segments.server import SegmentLimits, SegmentServer
from bottlekit.device.segments.source import Edges, Segments, Span
from bottlekit.device.segments.traveller import Traveller
from bottlekit.device.segments.work import Inference
from bottlekit.device.wire.layers import load_layers_rpc

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import in_a_thread

SHA256 = "ab" * 32
SHAPE = (1, 2, 4, 4)
# Layer k: (what it reads, what it makes). The output of layer 0 is added in layer 3: a residual connection.
LAYERS = [(["image"], "t1"), (["t1"], "t2"), (["t2"], "t3"), (["t3", "t1"], "t4"), (["t4"], "t5"), (["t5"], "out")]


class Layers(Segments):
    """Six layers: each multiplies the sum of what it reads by its number plus 2, and adds 1."""

    def __init__(self, sha256=SHA256):
        self.sha256 = sha256
        self.count = len(LAYERS)
        self.input_name = "image"
        self.result_names = ["out"]
        self.runs = []

    def crossing(self, boundary):
        made = ["image"] + [name for _, name in LAYERS]
        read = {name for inputs, _ in LAYERS[boundary:] for name in inputs} | {"out"}
        return [name for name in made[: boundary + 1] if name in read]

    def edges(self, span):
        made = [name for _, name in LAYERS[span.first : span.last + 1]]
        inputs = [n for reads, _ in LAYERS[span.first : span.last + 1] for n in reads if n not in made]
        behind = {name for reads, _ in LAYERS[span.last + 1 :] for name in reads} | {"out"}
        return Edges(sorted(set(inputs)), [name for name in made if name in behind])

    def opened(self, span, exact):
        return Group(self, span).__enter__()


class Group(Runner):
    def __init__(self, layers, span):
        super().__init__("layers {}..{}".format(*span))
        self.layers = layers
        self.span = span

    def _activate(self):
        edges = self.layers.edges(self.span)
        return tuple([TensorInfo(name, SHAPE, np.dtype(np.float32)) for name in names] for names in edges)

    def _infer(self, feeds):
        self.layers.runs.append(self.span)
        values = dict(feeds)
        for number in range(self.span.first, self.span.last + 1):
            reads, makes = LAYERS[number]
            values[makes] = sum(values[name] for name in reads) * np.float32(number + 2) + np.float32(1)
        return {info.name: values[info.name] for info in self._outputs}


def image(seed=0):
    return np.random.RandomState(seed).uniform(-1, 1, SHAPE).astype(np.float32)


def whole(value):
    return Group(Layers(), Span(0, 5)).__enter__().run({"image": value})["out"]


def route(machines, codec=None):
    """One letter a layer; neighbours on one machine are one segment."""
    steps = []
    for number, letter in enumerate(machines):
        machine = {"m": "mobile", "c": "cloud"}[letter]
        if steps and steps[-1].machine == machine:
            steps[-1] = Step(machine, Span(steps[-1].span.first, number))
        else:
            steps.append(Step(machine, Span(number, number)))
    return Route(SHA256, steps, codec, 1.0)


@contextlib.contextmanager
def serving(layers=None, limits=None, said=None, port=0):
    layers = layers if layers is not None else Layers()

    def work_for(network, spans, settings):
        return Inference(layers, network, spans, settings.get("exact") == "1")

    server = SegmentServer(work_for, port=port, limits=limits, say=(said if said is not None else []).append)
    with server, in_a_thread(server):
        yield server


@pytest.mark.parametrize("number", range(64))
def test_every_way_to_place_the_layers_gives_the_network(number):
    machines = "".join("mc"[number >> layer & 1] for layer in range(6))
    with serving() as server, Traveller(route(machines), Layers(), server.address) as traveller:
        for seed in range(2):
            journey = traveller.run(image(seed))
            assert journey.lost is None
            assert np.array_equal(journey.results["out"], whole(image(seed)))
            assert [(step.machine[0]) for step in journey.steps] == [s.machine[0] for s in route(machines).steps]


def test_a_tensor_crosses_once_and_only_if_it_is_read_there(monkeypatch):
    class Spy(SegmentClient):
        def run(self, task, segment, arrays, wanted):
            crossed.append((segment, sorted(arrays), sorted(wanted)))
            return super().run(task, segment, arrays, wanted)

    crossed = []
    monkeypatch.setattr("bottlekit.device.segments.traveller.SegmentClient", Spy)
    with serving() as server, Traveller(route("ccmcmm"), Layers(), server.address) as traveller:
        traveller.run(image())
    # t1 is made there and read there by layer 3: it never comes here. t2 does; t3 goes back; t4 comes.
    assert crossed == [(0, ["image"], ["t2"]), (1, ["t3"], ["t4"])]


def test_features_are_sent_with_the_schedules_codec():
    with serving() as server:
        with Traveller(route("mccmcc", "png"), Layers(), server.address) as traveller:
            coded = traveller.run(image()).results["out"]
    expected = whole(image())
    assert not np.array_equal(coded, expected)
    assert np.abs(coded - expected).max() < 0.05 * np.abs(expected).max()


def test_the_rest_runs_here_when_the_server_is_lost_and_the_next_image_finds_a_new_one():
    class Dying(Layers):
        def opened(self, span, exact):
            return Deadly(self, span).__enter__()

    class Deadly(Group):
        def _infer(self, feeds):
            if self.span.first == 3 and dying:
                # No MemoryError: CPython before 3.8.6 may make one of numpy's own kind of it (bpo-41654).
                raise RuntimeError("the server fails here")
            return super()._infer(feeds)

    here, dying, said = Layers(), [True], []
    with serving(Dying(), said=said) as server:
        with Traveller(route("mcmccm"), here, server.address) as traveller:
            journey = traveller.run(image())
            assert np.array_equal(journey.results["out"], whole(image()))
            assert "the server failed (RuntimeError)" in journey.lost, said
            # t1, t2 and t3 are here: layer 3 is where it goes on.
            assert here.runs == [Span(0, 0), Span(2, 2), Span(3, 5)]
            del dying[:]
            assert traveller.run(image(1)).lost is None
            server.stop()
    assert "RuntimeError" in said[0]


def test_a_server_that_is_started_again_between_two_images_is_found_again():
    with serving() as server:
        port = server.address[1]
        traveller = Traveller(route("mcmccm"), Layers(), server.address)
        traveller.__enter__()
        assert traveller.run(image()).lost is None
    lost = traveller.run(image(1))
    assert "start one with: bottlekit serve-layers" in lost.lost
    assert np.array_equal(lost.results["out"], whole(image(1)))
    with serving(port=port):
        assert traveller.run(image(2)).lost is None
        traveller.__exit__()


def test_what_only_the_server_made_is_made_again_here():
    class Refusing(Layers):
        def opened(self, span, exact):
            if span.first == 4:
                return Failing(self, span).__enter__()
            return super().opened(span, exact)

    class Failing(Group):
        def _infer(self, feeds):
            raise RuntimeError("no")

    here = Layers()
    with serving(Refusing()) as server, Traveller(route("ccmmcc"), here, server.address) as traveller:
        journey = traveller.run(image())
    assert journey.lost is not None
    assert np.array_equal(journey.results["out"], whole(image()))


def test_without_leave_to_finish_the_error_is_told():
    with serving() as server:
        traveller = Traveller(route("mcmccm"), Layers(), server.address, may_finish=False)
        traveller.__enter__()
    with pytest.raises(ServerUnreachableError, match="no server answers at 127.0.0.1"):
        traveller.run(image())


def test_nobody_there_at_the_beginning_is_an_error():
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ServerUnreachableError, match="serve-layers"):
            Traveller(route("mc" * 3), Layers(), taken.getsockname()).__enter__()


def test_a_schedule_that_needs_no_server_needs_no_address():
    with Traveller(route("mmmmmm"), Layers(), None) as traveller:
        assert np.array_equal(traveller.run(image()).results["out"], whole(image()))
    with pytest.raises(UsageError, match="give --server"):
        Traveller(route("mcmmmm"), Layers(), None)


@pytest.fixture
def client():
    with serving() as server:
        with SegmentClient(*server.address, network=SHA256, spans=[Span(1, 2), Span(4, 5)], settings={}) as one:
            yield one


INFER = 1


@pytest.mark.parametrize(
    ("task", "segment", "arrays", "wanted", "words"),
    [
        (2, 0, {"t1": image()}, [], "for training"),
        (99, 0, {"t1": image()}, [], "for training"),
        (INFER, 2, {"t1": image()}, [], "no segment 2"),
        (INFER, -1, {"t1": image()}, [], "no segment -1"),
        (INFER, 0, {}, [], "reads t1, which never came"),
        (INFER, 0, {"t1": image(), "t9": image()}, [], "no segment of the hello reads t9"),
        (INFER, 0, {"t1": image()}, ["t7"], "t7 is wanted"),
        (INFER, 0, {"t1": image()[:, :1]}, [], "must have the shape 1x2x4x4, not 1x1x4x4"),
        (INFER, 0, {"t1": image().astype(np.float16)}, [], "must be float32, not float16"),
    ],
)
def test_requests_that_do_not_fit_are_refused_and_the_connection_stays(
    client, task, segment, arrays, wanted, words
):
    with pytest.raises(PayloadError, match=words):
        client.run(task, segment, arrays, wanted)
    assert set(client.run(INFER, 0, {"t1": image()}, ["t3"])) == {"t3"}


def test_an_image_begins_without_the_tensors_of_the_one_before(client):
    client.run(INFER, 0, {"t1": image()}, [])
    client.run(INFER, 1, {"t4": image()}, ["out"])
    client.run(INFER, 0, {"t1": image()}, [])
    with pytest.raises(PayloadError, match="reads t4"):
        client.run(INFER, 1, {}, ["out"])


def test_another_network_and_layers_that_are_not_there_are_refused():
    with serving() as server:
        with pytest.raises(BundleError, match="another network is served here: abababababab"):
            SegmentClient(*server.address, network="cd" * 32, spans=[Span(0, 1)], settings={}).__enter__()
        for span in (Span(0, 6), Span(3, 2), Span(-1, 2)):
            with pytest.raises(BundleError, match=r"they are 0\.\.5"):
                SegmentClient(*server.address, network=SHA256, spans=[span], settings={}).__enter__()


def test_a_full_server_says_so():
    with serving(limits=SegmentLimits(connections=1)) as server:
        options = {"network": SHA256, "spans": [Span(0, 1)], "settings": {}}
        with SegmentClient(*server.address, **options):
            with pytest.raises(ServerBusyError, match="that is the limit"):
                SegmentClient(*server.address, **options).__enter__()


def test_what_is_larger_than_the_servers_frames_is_not_sent():
    with serving(limits=SegmentLimits(frame_bytes=1 << 13)) as server:
        with SegmentClient(*server.address, network=SHA256, spans=[Span(0, 1)], settings={}) as one:
            with pytest.raises(UsageError, match="larger --max-mib"):
                one.run(INFER, 0, {"image": np.zeros((1, 2, 64, 64), np.float32)}, [])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!i", -1),
        struct.pack("!i", 0),
        struct.pack("!i", 1 << 30),
        struct.pack("!i", 8) + b"\xff" * 8,
        struct.pack("!i", 12) + b"\x82\x21\x01\x03run" + b"\x00" * 5,
    ],
)
def test_bytes_that_are_no_message_end_their_connection_only(data):
    with serving() as server:
        with contextlib.closing(socket.create_connection(server.address, timeout=60)) as hostile:
            hostile.sendall(data)
            hostile.settimeout(60)
            with contextlib.suppress(ConnectionError):
                hostile.recv(1 << 16)
        with Traveller(route("mcmccm"), Layers(), server.address) as traveller:
            assert traveller.run(image()).lost is None


def test_the_silent_are_sent_away():
    said = []
    with serving(limits=SegmentLimits(hello_s=0.1), said=said) as server:
        with contextlib.closing(socket.create_connection(server.address, timeout=60)) as silent:
            assert silent.recv(1) == b""
    assert "silent or slow" in said[0]


def wire(**fields):
    values = {"name": "t", "element": 1, "shape": [1, 2], "data": bytes(8), "codec": None}
    values.update(fields)
    return load_layers_rpc().types.Array(**values)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
@pytest.mark.parametrize("shape", [(), (1,), (1, 3, 4, 5)])
def test_arrays_come_back_as_they_went(dtype, shape):
    array = (np.random.RandomState(3).uniform(-9, 9, shape) * np.ones(shape)).astype(dtype)
    back = arrays_from_wire(wire_from_arrays({"a": np.asarray(array)}))["a"]
    assert back.dtype == dtype
    assert back.shape == shape
    assert np.array_equal(back, array)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": None}, "without a name"),
        ({"name": ""}, "without a name"),
        ({"name": "x" * 301}, "without a name"),
        ({"element": 4}, "unknown kind of numbers"),
        ({"element": None}, "unknown kind of numbers"),
        ({"shape": [1, 3]}, "8 bytes for the shape"),
        ({"shape": [1 << 31, 1 << 31, 1 << 31]}, "8 bytes for the shape"),
        ({"shape": [-1, -2]}, "positive sizes"),
        ({"shape": [0]}, "positive sizes"),
        ({"shape": None}, "positive sizes"),
        ({"shape": [1] * 9}, "positive sizes"),
        ({"data": None}, "0 bytes for the shape"),
        ({"codec": "pickle"}, "no codec 'pickle'"),
        ({"codec": "png"}, "a codec sends float32"),
        ({"codec": "png", "shape": [1, 1, 2, 2]}, "t: "),
        ({"codec": "png", "shape": [1, 1, 2, 2], "element": 3}, "a codec sends float32"),
        ({"codec": "png", "shape": [1, 60000, 60000, 60000]}, "t: "),
    ],
)
def test_arrays_that_lie_are_refused(fields, words):
    with pytest.raises(PayloadError, match=words):
        arrays_from_wire([wire(**fields)])


def test_two_arrays_of_one_name_are_refused():
    with pytest.raises(PayloadError, match="without a name of its own"):
        arrays_from_wire([wire(), wire()])


def test_other_numbers_are_not_sent():
    with pytest.raises(PayloadError, match="is float64"):
        wire_from_arrays({"a": np.zeros(2)})


def schedule():
    return {
        "format": "bottlekit-schedule",
        "version": 1,
        "model": {"sha256": SHA256},
        "codec": "png",
        "schedule": {
            "latency_ms": 12.5,
            "segments": [
                {"machine": "mobile", "first": 0, "last": 1, "ms": 1.0, "mj": 1.0},
                {"machine": "cloud", "first": 2, "last": 5, "ms": 1.0, "mj": 0.0},
            ],
        },
    }


def read(tmp_path, value):
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(value))
    return route_from_file(str(path))


def test_a_schedule_is_read(tmp_path):
    found = read(tmp_path, schedule())
    assert found == Route(SHA256, [Step("mobile", Span(0, 1)), Step("cloud", Span(2, 5))], "png", 12.5)
    check_route(found, Layers(), "s")
    with pytest.raises(BundleError, match="for another network"):
        check_route(found, Layers("cd" * 32), "s")
    with pytest.raises(BundleError, match="has 4 layers, the network 6"):
        check_route(found._replace(steps=[Step("mobile", Span(0, 3))]), Layers(), "s")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update(format="bottlekit-plan"), "is no schedule"),
        (lambda s: s.update(version=2), "is no schedule"),
        (lambda s: s.update(codec="zip"), "codec must be none, png, jpeg"),
        (lambda s: s["schedule"].update(segments=[]), "schedules no layer"),
        (lambda s: s["schedule"].update(segments={}), "must be a list"),
        (lambda s: s["schedule"]["segments"][0].update(machine="fog"), "must be a list of machine"),
        (lambda s: s["schedule"]["segments"][0].update(first=True), "must be a list of machine"),
        (lambda s: s["schedule"]["segments"][1].update(first=3), r"layers 3\.\.5 come where layer 2"),
        (lambda s: s["schedule"]["segments"][1].update(last=1), r"layers 2\.\.1 come where layer 2"),
        (lambda s: s["schedule"].pop("latency_ms"), "lacks schedule.latency_ms"),
        (lambda s: s["model"].update(sha256="x"), "model.sha256"),
    ],
)
def test_a_damaged_schedule_is_refused(tmp_path, change, words):
    value = schedule()
    change(value)
    with pytest.raises(BundleError, match=words):
        read(tmp_path, value)


def test_an_answer_of_something_else_is_told():
    with contextlib.closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)

        def answer():
            accepted, _ = other.accept()
            with contextlib.closing(accepted):
                accepted.recv(1 << 16)
                accepted.sendall(struct.pack("!i", 4) + b"\xff" * 4)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(WireError, match="no bottlekit answer"):
            SegmentClient(*other.getsockname(), network=SHA256, spans=[], settings={}).__enter__()
        thread.join()
