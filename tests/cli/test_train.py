"""`bottlekit train`: the whole way on a folder of images, words and JSON, and what it refuses in one line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bottlekit.cli import common
from bottlekit.cli.main import app
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.specs import CodecSpec

Train = Callable[..., tuple[int, str, str]]
NET = ("--data", "folder", "--data-root", "shades", "--input-size", "32", "--backbone", "mobilenet_v3_small")
SHORT = ("--epochs", "1", "--lr", "0.01", "--batch-size", "16")
FROM = ("--from", "net.safetensors", "--split", "b1")


@pytest.fixture(name="train")
def _train(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, shades: Path
) -> Train:
    """A function that types `bottlekit train ...` beside a folder of dark and bright images:
    (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["bottlekit", "train", *map(str, arguments)])
        monkeypatch.setattr(common, "_quiet", False)
        code = common.run(app)
        return (code, *capfd.readouterr())

    return run


def test_a_network_then_a_bottleneck(train: Train, tmp_path: Path) -> None:
    code, out, err = train(*NET, *SHORT, "-o", "net.safetensors")
    assert code == 0, err
    assert "net.safetensors: mobilenet_v3_small, measured on 10 held-out images" in out
    assert "epoch 1/1, mean loss" in err

    code, out, err = train(*FROM, *SHORT, "--quality", "5", "--json", "--quiet", "-o", "split.safetensors")
    assert (code, err) == (0, "")
    result = json.loads(out)
    checkpoint = load_checkpoint(tmp_path / "split.safetensors")
    assert result["accuracy"] == checkpoint.accuracy
    assert result["bottleneck"] == {"kind": "bottlenet", "split": "b1", "channels": 2, "spatial": 2, "kernel": 3}
    assert result["codec"] == {"name": "jpeg", "bits": 8, "quality": 5, "range": "image"}
    assert checkpoint.training["command"].startswith("bottlekit train --from net.safetensors --split b1")
    assert checkpoint.training["recipe"]["learning_rate"] == 0.01
    assert checkpoint.training["recipe"]["name"] == "miniimagenet"

    code, out, _ = train(*FROM, *SHORT, "--unit", "butterfly", "--channels", "4", "--naive", "-o", "b.safetensors")
    assert code == 0
    assert "accuracy with the bottleneck" in out
    butterfly = load_checkpoint(tmp_path / "b.safetensors")
    assert butterfly.bottleneck is not None
    assert butterfly.codec is not None
    assert (butterfly.bottleneck.spatial, butterfly.codec.name) == (1, "raw")
    assert butterfly.training["compression_aware"] is False

    code, out, err = train(*FROM, *SHORT, "--rate-weight", "0.01", "--distill-epochs", "1", "-o", "r.safetensors")
    assert code == 0, err
    assert "warm-up: epoch 1/1, mean loss" in err
    assert "about" in err
    rate = load_checkpoint(tmp_path / "r.safetensors")
    assert rate.codec is not None
    assert rate.codec.name == "learned"
    assert (rate.training["rate_weight"], rate.training["distill_epochs"]) == (0.01, 1)

    options = ("--codec", "learned", "--rates", "2,4", "--range", "static")
    code, out, err = train(*FROM, *SHORT, *options, "-o", "several.safetensors")
    assert code == 0, err
    assert "at bits   2" in out
    several = load_checkpoint(tmp_path / "several.safetensors")
    assert several.codec == CodecSpec("learned", bits=4, range="static")
    assert [rate["bits"] for rate in several.accuracy["rates"]] == [2, 4]

    before = (tmp_path / "net.safetensors").read_bytes()
    code, _, err = train(*NET, *SHORT, "-o", "net.safetensors")
    assert code == 2
    assert "net.safetensors exists already; choose another name or pass --force" in err
    assert (tmp_path / "net.safetensors").read_bytes() == before
    assert train(*NET, "--epochs", "0", "--force", "-o", "net.safetensors")[0] == 0


def test_a_sweep_prints_a_table_and_writes_two_files(train: Train, tmp_path: Path) -> None:
    assert train(*NET, "--epochs", "0", "-o", "net.safetensors")[0] == 0
    code, out, err = train(*FROM, *SHORT, "--sweep-quality", "1,50", "-o", "sweep.json")
    assert code == 0, err
    assert "compression-aware" in out
    assert [point["quality"] for point in json.loads((tmp_path / "sweep.json").read_text())["points"]] == [1, 50]
    assert (tmp_path / "sweep.csv").read_text().count("\n") == 3


def test_ctrl_c_in_a_sweep_says_how_to_go_on(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bottlekit.training import sweep
    from bottlekit.training.loop import fit

    assert train(*NET, "--epochs", "0", "-o", "net.safetensors")[0] == 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if options["title"] == "naive":
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(sweep, "fit", interrupted)
    asked = (*FROM, *SHORT, "--sweep-quality", "1,50", "-o", "sweep.json")
    code, _, err = train(*asked)
    assert code == 130
    assert "sweep.json.resume; the same command with --resume goes on" in err
    monkeypatch.setattr(sweep, "fit", fit)
    code, _, err = train(*asked)
    assert code == 2
    assert "sweep.json.resume holds an interrupted run" in err
    code, _, err = train(*asked, "--resume")
    assert code == 0, err
    assert sorted(path.name for path in tmp_path.glob("sweep*")) == ["sweep.csv", "sweep.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "imagenet"], "data set 'imagenet' does not exist; there are: digits, folder"),
        (["--data", "folder"], "the data set folder is read from files: add --data-root PATH"),
        (["--data", "folder", "--data-root", "nowhere"], "nowhere does not exist; expected a folder with train/"),
        (["--data", "folder", "--data-root", "shades/train"], "shades/train has no folder 'train'; expected"),
        (["--backbone", "resnet51"], "backbone 'resnet51' does not exist; there are: resnet18"),
        (
            ["--recipe", "imagenet"],
            "recipe 'imagenet' does not exist; there are: cifar, digits, fractals, hybrid_cifar, miniimagenet",
        ),
        (["--lr", "0"], "--lr must be a positive number, not 0.0"),
        (["--epochs", "-1"], "--epochs must be a whole number of at least 0, not -1"),
        (["--batch-size", "0"], "--batch-size must be a whole number of at least 1, not 0"),
        (["--input-size", "4"], "--input-size must be at least 8 pixels, not 4"),
        (["--split", "rb1"], "--split is about a bottleneck, which is put into a checkpoint: add --from"),
        (["--naive"], "--naive is about a bottleneck"),
        (["--rate-weight", "0.1"], "--rate-weight is about a bottleneck"),
        (["--rates", "1,2"], "--rates is about a bottleneck"),
        (["--range", "static"], "--range is about a bottleneck"),
        (["--server", "localhost:9091"], "--server is for a schedule: add --plan SCHEDULE"),
        (["--tls", "device"], "--tls is for a schedule"),
        (["--plan", "plan.json"], "--server HOST:PORT is missing"),
        (["--plan", "plan.json", "--backbone", "resnet18"], "--backbone does not go with --plan"),
        (["--plan", "plan.json", "--split", "rb1"], "--split does not go with --plan"),
        (["--plan", "none.json", "--server", "localhost:9091"], "no schedule at none.json"),
        (["--data", "fractals:20"], "fractals take CLASSESxIMAGES or CLASSESxIMAGES:SEED, 100x600:0 say, not '20'"),
        (["--weights", "none.pt"], "no weights at none.pt"),
        (["--resume"], "nothing to resume: there is no x.safetensors.resume"),
        (["--from", "none.safetensors", "--split", "rb1"], "no checkpoint at none.safetensors"),
    ],
)
def test_wrong_requests_get_one_line(train: Train, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, out, err = train(*arguments, "--quiet", "-o", "x.safetensors")
    assert code in (1, 2)
    assert err.startswith(f"bottlekit: {message}")
    assert err.count("\n") == 1
    assert out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["shades"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "where shall the bottleneck go? add --split; mobilenet_v3_small has b1, b2"),
        (["--split", "rb1"], "split point of mobilenet_v3_small 'rb1' does not exist; there are: b1, b2"),
        (["--split", "b1", "--backbone", "resnet18"], "--backbone is fixed by the checkpoint"),
        (["--split", "b1", "--input-size", "64"], "--input-size is fixed by the checkpoint"),
        (["--split", "b1", "--unit", "neck"], "--unit must be bottlenet or butterfly, not 'neck'"),
        (["--split", "b1", "--codec", "gif"], "codec 'gif' does not exist"),
        (["--split", "b1", "--quality", "0"], "--quality must be 1..100, not 0"),
        (["--split", "b1", "--bits", "9"], "--bits must be 1..8, not 9"),
        (["--split", "b1", "--data", "digits"], "digits has 10 classes"),
        (["--split", "b1", "--sweep-quality", "1,x"], "--sweep-quality takes numbers with commas"),
        (["--split", "b1", "--sweep-quality", "5", "--range", "static"], "--range does not go with --sweep"),
        (["--split", "b1", "--range", "mine"], "--range must be image or static, not 'mine'"),
        (["--split", "b1", "--rates", "1;2"], "--rates takes numbers with commas between them"),
        (["--split", "b1", "--rates", "20"], "--rates needs two or more different numbers with commas between"),
        (
            ["--split", "b1", "--rates", "20,200"],
            "--rates 200 is no setting of --codec jpeg: --quality must be 1..100",
        ),
        (["--split", "b1", "--rates", "0,99"], "--rates 0 is no setting of --codec jpeg: --quality must be 1..100"),
        (["--split", "b1", "--rates", "5,20", "--quality", "6"], "--quality 6 is not among --rates 5,20"),
        (["--split", "b1", "--sweep-quality", "5", "--naive"], "--naive does not go with --sweep-quality"),
        (["--split", "b1", "--sweep-quality", "5", "--rate-weight", "1"], "--rate-weight does not go with --sweep"),
        (["--split", "b1", "--rate-weight", "-1"], "--rate-weight must be a number of at least 0, not -1.0"),
        (["--split", "b1", "--distill-epochs", "-1"], "--distill-epochs must be at least 0, not -1"),
        (
            ["--split", "b1", "--rate-weight", "1", "--codec", "jpeg"],
            "--rate-weight estimates the bytes of --codec",
        ),
    ],
)
def test_wrong_bottlenecks_get_one_line(train: Train, tmp_path: Path, arguments: list[str], message: str) -> None:
    assert train(*NET, "--epochs", "0", "--quiet", "-o", "net.safetensors")[0] == 0
    code, _, err = train("--from", "net.safetensors", *arguments, "--quiet", "-o", "x.safetensors")
    assert code == 2
    assert err.startswith(f"bottlekit: {message}")
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.safetensors", "shades"]


def test_a_corrupt_image_and_a_truncated_checkpoint_get_one_line(train: Train, tmp_path: Path) -> None:
    image = tmp_path / "shades" / "train" / "dark" / "1.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    code, _, err = train(*NET, *SHORT, "--quiet", "-o", "net.safetensors")
    assert code == 1
    assert err.startswith("bottlekit: shades/train/dark/1.jpg ")
    assert err.count("\n") == 1
    image.write_bytes(whole)
    assert train(*NET, "--epochs", "0", "-o", "net.safetensors")[0] == 0
    (tmp_path / "net.safetensors").write_bytes((tmp_path / "net.safetensors").read_bytes()[:5000])
    code, _, err = train(*FROM, *SHORT, "-o", "x.safetensors")
    assert code == 1
    assert err.startswith("bottlekit: net.safetensors is no bottlekit checkpoint")


def test_ctrl_c_says_how_to_go_on(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bottlekit.training import train as stage

    def interrupted(*arguments: object, **options: object) -> None:
        (tmp_path / "net.safetensors.resume").write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "fit", interrupted)
    code, _, err = train(*NET, *SHORT, "-o", "net.safetensors")
    assert code == 130
    assert "net.safetensors.resume; the same command with --resume goes on" in err


def test_help_teaches_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from bottlekit.cli import common; from bottlekit.cli.main import app\n"
        "sys.argv = ['bottlekit', 'train', '--help']; code = common.run(app)\n"
        "sys.exit(code or ','.join({'torch', 'numpy', 'sklearn', 'accelerate'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bottlekit train --data digits --backbone resnet18 -o net.safetensors" in done.stdout
    assert "--sweep-quality" in done.stdout


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_keeps_the_finished_epochs(train: Train, tmp_path: Path) -> None:
    """A terminal sends it to the workers that read images as well."""
    program = "import sys; from bottlekit.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "train", *NET, *SHORT, "--epochs", "100000", "-o", "net.safetensors"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 240
        while not (tmp_path / "net.safetensors.resume").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "what was finished is in net.safetensors.resume; the same command with --resume goes on" in err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.safetensors.resume", "shades"]


@pytest.mark.slow
def test_several_processes_train_one_network_and_one_of_them_speaks(train: Train, tmp_path: Path) -> None:
    """What `accelerate launch` does on several GPUs, with two processes on the processor."""
    program = "import sys; from bottlekit.cli.main import main; main()"
    command = ["train", *NET, *SHORT, "-o", "net.safetensors"]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *command],
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        outcomes = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outcomes
    spoken = [out for out, _ in outcomes if out]
    assert len(spoken) == 1
    assert "measured on 10 held-out images" in spoken[0]
    checkpoint = load_checkpoint(tmp_path / "net.safetensors")
    assert len(checkpoint.training["history"]) == 1


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
