"""Thirty-two clients at once, with mixed splits, codecs and batches: every answer is its request's, none lost."""

import contextlib
import os
import sys
import threading

import numpy as np
import pytest

from bottlekit.device import errors
from bottlekit.device.bundle import Bundle, fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.codecs import CODEC_NAMES
from bottlekit.device.codecs.calibrate import calibrated_tables
from bottlekit.device.limits import ServerLimits
from bottlekit.device.pipeline import local_split_from_bundle
from bottlekit.device.runners import Runner, TensorInfo

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import PATIENCE_S, TINY_FLEET, join, serving, wait_until

CLIENTS = 32
FEATURE = (3, 4, 5)
# Every codec, with a range of each image and with a static one, few bits and many: a bundle, and a split, of each.
CODECS = [
    {"name": name, "bits": (8, 4, 3)[number % 3], "quality": 20, "range": value_range}
    for number, name in enumerate(CODEC_NAMES)
    for value_range in ("image", "static")
]
# Of these bundles each client uses some.
BUNDLES_OF_A_CLIENT = 4


class Linear(Runner):
    """A matrix a split, applied to each image by itself: a batch gives the very bits that single images give."""

    def __init__(self, bundle):
        super().__init__("linear")
        self._weight = weight_of(bundle)

    def _activate(self):
        return [TensorInfo("feature", (None, None, None, None), np.dtype(np.float32))], []

    def _deactivate(self):
        pass

    def _infer(self, feeds):
        return {"logits": np.stack([one.reshape(-1) @ self._weight for one in feeds["feature"]])}


def weight_of(bundle):
    random = np.random.RandomState(bundle.split["index"])
    return random.normal(size=(int(np.prod(bundle.feature_shape)), len(bundle.classes))).astype(np.float32)


def check_clients(server, bundles, requests):
    """Every client asks `requests` times, another bundle and another feature each time.

    Logits must be those of that very payload, computed here; the classes differ for every payload, so that an
    answer to anybody else's request is found out.
    """
    failures, answered = [], []

    def work(seed):
        random = np.random.RandomState(seed)
        done = 0
        mine = [bundles[(seed + 5 * turn) % len(bundles)] for turn in range(BUNDLES_OF_A_CLIENT)]
        try:
            with contextlib.ExitStack() as stack:
                clients = [
                    stack.enter_context(SplitClient(bundle, *server.address, timeout_s=PATIENCE_S))
                    for bundle in mine
                ]
                for _ in range(requests):
                    number = random.randint(len(mine))
                    bundle = mine[number]
                    payload = bundle.codec.encode(random.normal(size=bundle.feature_shape).astype(np.float32))
                    wanted = bundle.codec.decode(payload).reshape(-1) @ weight_of(bundle)
                    top_k = random.choice([0, 2])
                    answer = clients[number]._infer("infer", "tail", payload, top_k, {})
                    order = np.argsort(-wanted, kind="stable")[:2] if top_k else np.arange(wanted.size)
                    if answer.logits.tobytes() != wanted[order].tobytes():
                        failures.append((seed, number))
                    done += 1
        except Exception as error:
            failures.append(error)
        answered.append(done)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert failures == []
    assert answered == [requests] * CLIENTS
    splits = server.statistics.splits.values()
    assert sum(split.answered for split in splits) == requests * CLIENTS
    return sum(split.answered for split in splits) / float(sum(split.batches for split in splits))


@pytest.fixture
def bundles(fake_bundle):
    made = []
    features = np.random.RandomState(0).normal(size=(12,) + FEATURE).astype(np.float32)
    for index, codec in enumerate(CODECS):
        bundle = Bundle.load(
            fake_bundle(
                "net{}".format(index),
                index=index + 1,
                codec=codec,
                tables=calibrated_tables(codec, FEATURE, features),
                classes=list("abcdefg"),
                feature=FEATURE,
            )
        )
        bundle.manifest["files"]["tail.onnx"]["sha256"] = str(index) * 64  # a graph of its own
        made.append(bundle)
    return made


@pytest.mark.parametrize("max_batch", [1, 3, 16])
@pytest.mark.parametrize("max_wait_s", [0.0, 0.002])
def test_every_answer_is_its_requests(bundles, max_batch, max_wait_s):
    limits = ServerLimits(max_batch=max_batch, max_wait_s=max_wait_s)
    with serving(bundles, runner_for=lambda bundle, part: Linear(bundle), limits=limits) as server:
        together = check_clients(server, bundles, requests=15)
    assert together == 1 if max_batch == 1 else together > 1


@pytest.mark.slow
def test_every_answer_of_many_thousands_is_its_requests(bundles):
    """BOTTLEKIT_REQUESTS=100000 asks as often as that: minutes."""
    requests = int(os.environ.get("BOTTLEKIT_REQUESTS", "16000"))
    with serving(bundles, runner_for=lambda bundle, part: Linear(bundle)) as server:
        assert check_clients(server, bundles, requests=requests // CLIENTS) > 1


def test_onnx_runtimes_batches_give_what_single_images_give():
    """With real graphs: within rounding of the local answer, and never nearer to another's."""
    fleet = fleet_from_path(TINY_FLEET)
    inputs = np.random.RandomState(0).normal(size=(CLIENTS, 1, 3, 8, 8)).astype(np.float32)
    wanted = {}
    for number, bundle in enumerate(fleet):
        with local_split_from_bundle(bundle) as local:
            wanted[number] = np.stack([local.infer(image).logits for image in inputs])
    failures, batches = [], []

    def work(seed):
        try:
            number = seed % len(fleet)
            with SplitClient(fleet[number], *server.address, timeout_s=PATIENCE_S) as client:
                for _ in range(20):
                    answer = client.infer_input(inputs[seed])
                    batches.append(answer.batch)
                    distances = np.abs(wanted[number] - answer.logits).max(axis=1)
                    if distances[seed] > 1e-5 or np.argmin(distances) != seed:
                        failures.append(seed)
        except Exception as error:
            failures.append(error)

    with serving(fleet) as server:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        join(*threads)
    assert failures == []
    assert len(batches) == 20 * CLIENTS
    assert max(batches) > 1


# ---- another fleet while clients ask


def test_a_reload_drops_no_request_and_new_clients_get_the_new_fleet(bundles):
    offered = [bundles[:2]]
    stop = threading.Event()
    counts, failures = [0] * 8, []

    def work(number):
        bundle = bundles[number % 2]
        weight = weight_of(bundle)
        random = np.random.RandomState(bundle.split["index"])
        try:
            # Without another chance: a request that is dropped is a failure here.
            with SplitClient(bundle, *server.address, timeout_s=PATIENCE_S, reconnect=False) as client:
                while not stop.is_set():
                    payload = bundle.codec.encode(random.normal(size=bundle.feature_shape).astype(np.float32))
                    answer = client._infer("infer", "tail", payload, 0, {})
                    assert answer.logits.tobytes() == (bundle.codec.decode(payload).reshape(-1) @ weight).tobytes()
                    counts[number] += 1
        except Exception as error:
            failures.append(error)

    def runner_for(bundle, part):
        return Linear(bundle)

    with serving(offered[0], runner_for=runner_for, fleet=lambda: offered[0]) as server:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for turn in range(6):
            wait_until(lambda turn=turn: failures or min(counts) > turn, "an answer to each")
            # The number of a bundle changes with every turn, and at last one of those in use is gone.
            offered[0] = [bundles[1:], [bundles[2], bundles[0], bundles[1]]][turn % 2]
            server.reload()
            wait_until(lambda turn=turn: server.statistics.reloads > turn, "the reload")
            with SplitClient(bundles[2], *server.address) as client:
                payload = bundles[2].codec.encode(np.ones(bundles[2].feature_shape, np.float32))
                wanted = bundles[2].codec.decode(payload).reshape(-1) @ weight_of(bundles[2])
                assert client._infer("infer", "tail", payload, 0, {}).logits.tobytes() == wanted.tobytes()
        stop.set()
        join(*threads)
        assert failures == []
        assert min(counts) >= 6
        assert [bundle.name for bundle in server.bundles] == ["net2", "net0", "net1"]


def test_generations_that_nobody_uses_are_closed(bundles):
    closed = []

    class Closing(Linear):
        def _deactivate(self):
            closed.append(self.name)

    with serving(bundles[:1], runner_for=lambda bundle, part: Closing(bundle)) as server:
        with SplitClient(bundles[0], *server.address) as client:
            for turn in range(3):
                server.reload()
                wait_until(lambda turn=turn: server.statistics.reloads > turn, "the reload")
            client.ping()
            # Those between the first, which the client has, and the last.
            wait_until(lambda: len(closed) >= 2, "the end of those in between")
            assert len(closed) == 2
        wait_until(lambda: len(closed) >= 3, "the end of the first")
    assert len(closed) == 4


@pytest.mark.parametrize("what", ["the folder is gone", "a tail does not load", "the disk is full"])
def test_a_reload_that_fails_changes_nothing_and_says_why(bundles, what):
    said = []
    broken = []

    def fleet():
        if what == "the folder is gone":
            raise errors.BundleError("no bundle at fleet")
        if what == "the disk is full":
            raise OSError(28, "No space left on device")
        broken.append(True)
        return bundles[1:]

    def runner_for(bundle, part):
        if broken:
            raise errors.EngineError("cannot be loaded")
        return Linear(bundle)

    with serving(bundles[:1], runner_for=runner_for, fleet=fleet, say=said.append) as server:
        with SplitClient(bundles[0], *server.address) as client:
            server.reload()
            wait_until(lambda: said, "a word about it")
            assert said[0].startswith("reload failed, everything stays as it was: ")
            client.ping()
        with SplitClient(bundles[0], *server.address) as client:
            client.ping()
        assert [bundle.name for bundle in server.bundles] == ["net0"]
        assert server.statistics.reloads == 0
