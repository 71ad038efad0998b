"""Fixtures for every room. This file is Python 3.6 source, because the device tests run there as well; what
needs torch is imported where it is used."""

import os
import shutil
import signal
import tempfile

import hypothesis
import pytest

# A machine may stall in the middle of an example, or while one is made.
hypothesis.settings.register_profile(
    "unhurried", hypothesis.settings.default, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

# A run that a shell started in the background, or nohup, inherits ignored signals, and so would every child of it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Builds on one machine take turns, by a file in the temporary folder: tests side by side are machines apart.
if "PYTEST_XDIST_WORKER" in os.environ:
    tempfile.tempdir = os.environ["TMPDIR"] = os.path.join(
        tempfile.gettempdir(), "bottlekit-tests-{}-{}".format(os.getuid(), os.environ["PYTEST_XDIST_WORKER"])
    )
    os.makedirs(tempfile.tempdir, exist_ok=True)


# What takes minutes begins first, so that no worker is left with it when the others are done.
LONGEST_FIRST = (
    "test_docs.py",
    "test_demo.py",
    "test_python36.py",
    "test_backbones.py",
    "test_codec_layer_graph.py",
)


def pytest_collection_modifyitems(items):
    def turn(item):
        name = os.path.basename(str(item.fspath))
        return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        """As pytest-xdist's, but for a worker that is lost: it gives out all files again that the worker had, and
        one of which no test is left is never reported as done, so that everybody waits for ever."""

        def remove_node(self, node):
            work = self.assigned_work[node]
            for file in [file for file, tests in work.items() if all(tests.values())]:
                del work[file]
            return super().remove_node(node)

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture
def run(monkeypatch, capsys):
    """run(*words, code=0): a verb in this process; what it printed, or with another code the line of its error."""
    from bottlekit.cli import common
    from bottlekit.cli.main import app

    def run_verb(*words, code=0):
        monkeypatch.setattr("sys.argv", ["bottlekit"] + [str(word) for word in words])
        monkeypatch.setattr(common, "_quiet", False)
        capsys.readouterr()
        assert common.run(app) == code
        out, err = capsys.readouterr()
        if code == 0:
            return out
        lines = [line for line in err.splitlines() if line.startswith("bottlekit: ")]
        assert len(lines) == 1, err
        return lines[0]

    return run_verb


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory):
    """A plain ResNet-18 for 64 x 64 digits with random weights and lived-in batch norms, as a checkpoint file."""
    import torch

    from bottlekit.models.backbones import backbone_from_name
    from bottlekit.models.checkpoint import Checkpoint, save_checkpoint
    from bottlekit.specs import ModelSpec, Preprocessing

    model = ModelSpec("resnet18", 10, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = backbone_from_name(model.backbone, model.num_classes)
        lived_in(network, torch.randn(8, 3, model.input_size, model.input_size))
    checkpoint = Checkpoint.from_network(
        network,
        model,
        classes=tuple(str(digit) for digit in range(10)),
        preprocessing=Preprocessing(resize=64, crop=64),
        data="digits",
        accuracy={},
    )
    path = tmp_path_factory.mktemp("checkpoint") / "resnet18.safetensors"
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture(scope="session")
def small_bundle(small_checkpoint, tmp_path_factory):
    """A complete real bundle in a few seconds: ResNet-18 at 64 x 64, untrained BottleNet unit at rb1, JPEG 20.

    It is shared by the whole session: read it, copy it, but do not change it.
    """
    from bottlekit.export.bundle_writer import bundle_from_checkpoint
    from bottlekit.export.source import Untrained
    from bottlekit.specs import BottleneckSpec, CodecSpec

    untrained = Untrained(BottleneckSpec("bottlenet", "rb1", channels=4), CodecSpec("jpeg", 8, 20))
    return bundle_from_checkpoint(
        small_checkpoint,
        tmp_path_factory.mktemp("bundle") / "resnet18-rb1",
        images=40,
        untrained=untrained,
        command="a fixture of the tests",
    )


@pytest.fixture(scope="session", name="lived_in")
def lived_in_fixture():
    """The function `lived_in`, for tests elsewhere."""
    return lived_in


def lived_in(network, images):
    """Give every batch norm of `network` statistics as training leaves them; values stay of order 1.

    Random scales and shifts, means and variances of a real forward pass over `images`, then a small error in
    them, because the running statistics of training are never those of one batch. (A large error would add up
    over the layers: networks with random weights amplify it until rounding decides their output.) Ends in
    evaluation mode.
    """
    import torch

    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0.0, 0.2)
            norm.momentum = 1.0
        for module in network.modules():
            # Training leaves the last scale of a residual branch small: a block adds little to what it is given.
            last = getattr(module, "bn3", getattr(module, "bn2", None))
            if hasattr(module, "f") and hasattr(module.f, "c"):  # RegNet's blocks
                last = module.f.c[1]
            if last is not None:
                last.weight.uniform_(0.1, 0.3)
        network.eval()
        for norm in norms:  # and nothing else: dropout and stochastic depth would give statistics of other networks
            norm.train()
        # Mirrored too: a variance over a few positions of a few images can be nearly zero.
        network(torch.cat([images, images.flip(2), images.flip(3), images.flip(2, 3)]))
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean.add_(0.02 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt())
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.95, 1.05))
    network.eval()
    return network


CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A real headless Chromium, driven by selenium; skipped where there is none, failed in CI."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        reason = "no Chromium here (apt-get install chromium chromium-driver)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason + ": CI must run this test")
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*CHROMIUM_FLAGS, "--user-data-dir={}".format(tmp_path_factory.mktemp("chromium"))):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()
