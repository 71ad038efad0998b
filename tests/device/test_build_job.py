"""A build job says everything, loads as it was written, and is refused in one line when it was changed."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from bottlekit.device.build_job import BuildJob, compile_key, files_of_job, job_document, write_job
from bottlekit.device.bundle import Bundle
from bottlekit.device.codecs.calibrate import calibrated_tables
from bottlekit.device.errors import BottlekitError, BundleError, UnknownNameError, UsageError
from bottlekit.device.files import sha256_of_file
from bottlekit.device.trt import PlanOptions

sys.path.insert(0, str(Path(__file__).parent))
from jobs import JOB_FILES, MAX_BATCH, RB1, WORKSPACE_BYTES, files_of, make_job


@pytest.fixture
def cache(tmp_path):
    path = tmp_path / "cache"
    path.write_bytes(b"tactics")
    return str(path)


def test_a_job_is_loaded_as_it_was_written(tmp_path, cache):
    folder = make_job(
        tmp_path / "job",
        part="tail",
        precision="fp16",
        timing_cache=cache,
        target="tx2",
        expects_tensorrt="8.2",
        expects_sm="6.2",
    )
    job = BuildJob.load(folder)
    bundle = Bundle.load(RB1)
    assert (job.part, job.target, job.kind) == ("tail", "tx2", "tensorrt")
    assert (job.expects_tensorrt, job.expects_sm, job.tolerance.name) == ("8.2", "6.2", "fp16")
    shape = tuple(bundle.feature_shape)
    assert job.options == PlanOptions(
        workspace_bytes=WORKSPACE_BYTES,
        profiles={"feature": ((1,) + shape, (1,) + shape, (MAX_BATCH,) + shape)},
        precision="fp16",
        timing_cache=b"tactics",
    )
    assert job.bundle.sha256 == bundle.sha256
    assert job.bundle.parts == ()
    assert job.graph_path == os.path.join(folder, "graph.onnx")
    assert job.input_name_and_shape() == ("feature", shape)
    assert job.output_name_and_shape() == ("logits", (len(bundle.classes),))
    assert job.key() == dict(
        {"onnx_sha256": bundle.onnx_sha256("tail"), "precision": "fp16"}, **compile_key(job.options)
    )


def test_a_job_holds_what_is_needed_and_nothing_more(tmp_path, cache):
    folder = make_job(tmp_path / "job")
    assert files_of(folder) == JOB_FILES
    assert sorted(files_of_job(folder)) == JOB_FILES
    assert sha256_of_file(folder + "/graph.onnx") == Bundle.load(RB1).onnx_sha256("head")
    with_cache = make_job(tmp_path / "other", timing_cache=cache)
    assert sorted(files_of_job(with_cache)) == files_of(with_cache)


def test_a_job_takes_the_codecs_tables_along(tmp_path, fake_bundle):
    spec = {"name": "learned", "bits": 2, "quality": 20}
    tables = calibrated_tables(spec, (3, 4, 4), np.ones((3, 3, 4, 4), np.float32))
    bundle = Bundle.load(fake_bundle(codec=spec, tables=tables))
    document = job_document(
        bundle, "head", "cpu", "onnxruntime", PlanOptions(workspace_bytes=0, precision="typed"), "fp32"
    )
    folder = str(tmp_path / "job")
    write_job(folder, document, bundle.path, bundle.onnx_path("head"))
    assert files_of(folder) == sorted(JOB_FILES + ["codec.npz"]) == sorted(files_of_job(folder))
    assert BuildJob.load(folder).bundle.codec.name == "learned"
    os.remove(os.path.join(folder, "codec.npz"))
    with pytest.raises(BundleError, match="codec.npz is missing"):
        BuildJob.load(folder)


def test_the_input_and_output_of_each_part(tmp_path):
    for part, names in (
        ("head", ("image", "feature")),
        ("full", ("image", "logits")),
        ("baseline", ("image", "logits")),
    ):
        job = BuildJob.load(make_job(tmp_path / part, part=part))
        assert (job.input_name_and_shape()[0], job.output_name_and_shape()[0]) == names


def test_what_exists_is_not_overwritten(tmp_path):
    make_job(tmp_path / "job")
    with pytest.raises(UsageError, match="exists already"):
        make_job(tmp_path / "job")


def test_a_graph_that_is_not_there_leaves_no_job(tmp_path):
    bundle = Bundle.load(RB1)
    document = job_document(bundle, "head", "double", "onnxruntime", PlanOptions(0), "fp32")
    with pytest.raises(OSError, match="nothing"):
        write_job(str(tmp_path / "job"), document, RB1, str(tmp_path / "nothing.onnx"))
    assert os.listdir(str(tmp_path)) == []


def change(folder, name, edit):
    path = Path(folder) / name
    path.write_bytes(edit(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("graph.onnx", "graph.onnx was changed after the job was made"),
        ("timing.cache", "timing.cache was changed after the job was made"),
        ("golden.npz", "golden.npz was changed after export"),
        ("bundle.json", "is of another bundle than its job"),
    ],
)
@pytest.mark.parametrize("how", ["bit", "truncated", "longer", "missing"])
def test_a_file_that_was_tampered_with_is_named(tmp_path, cache, name, words, how):
    folder = make_job(tmp_path / "job", timing_cache=cache)
    edits = {
        "bit": lambda content: content[:5] + bytes([content[5] ^ 1]) + content[6:],
        "truncated": lambda content: content[:-1],
        "longer": lambda content: content + b" ",
    }
    if how == "missing":
        os.remove(os.path.join(folder, name))
        words = "has no bundle.json" if name == "bundle.json" else name + " is missing"
    else:
        change(folder, name, edits[how])
        if name == "bundle.json" and how == "bit":
            words = "bundle.json"
    with pytest.raises(BundleError, match=words):
        BuildJob.load(folder)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda job: job.update(format="bottlekit-bundle"), "is no build job of version 1"),
        (lambda job: job.update(version=2), "is no build job of version 1: it says bottlekit-build-job version 2"),
        (lambda job: job.pop("files"), "lacks files"),
        (lambda job: job["files"].pop("graph.onnx"), "lists no graph.onnx"),
        (lambda job: job["files"].update({"../x": "0" * 64}), "lists the file '../x', which no job has"),
        (lambda job: job["files"].update({"graph.onnx": "0"}), "SHA-256"),
        (lambda job: job["bundle"].update(sha256="0" * 64), "is of another bundle than its job"),
        (lambda job: job.update(part="middle"), "'middle' does not exist; there are: head, tail, full, baseline"),
        (lambda job: job.update(kind="openvino"), "'openvino' does not exist"),
        (lambda job: job.update(target="../../etc"), "target must be a name"),
        (lambda job: job.update(tolerance="loose"), "'loose' does not exist; there are: fp32, fp16"),
        (
            lambda job: job["compile"].update(precision="fp8"),
            "'fp8' does not exist; there are: typed, fp32, fp16, int8",
        ),
        (lambda job: job["compile"].update(workspace_bytes=-1), "compile.workspace_bytes must be an integer"),
        (lambda job: job["compile"].update(workspace_bytes=True), "compile.workspace_bytes must be an integer"),
        (lambda job: job["compile"].update(fp32_layers="conv"), "compile.fp32_layers must be a list"),
        (lambda job: job["compile"].update(profiles=[]), "compile.profiles must be an object"),
        (lambda job: job["compile"].update(profiles={"image": [[1], [1]]}), "three shapes"),
        (lambda job: job["compile"].update(profiles={"image": [[1], [1, 2], [1]]}), "a list of 1 integers"),
        (lambda job: job["compile"].update(profiles={"image": [[2], [1], [4]]}), "at least as large"),
        (lambda job: job["compile"].update(profiles={"image": [[0], [1], [4]]}), "integers from 1"),
        (lambda job: job["expects"].update(sm=6.2), "expects.sm must be a string"),
        (lambda job: job.pop("key"), "lacks key"),
    ],
)
def test_a_hostile_job_is_one_line(tmp_path, edit, words):
    folder = make_job(tmp_path / "job")
    document = json.loads(Path(folder, "job.json").read_text())
    edit(document)
    Path(folder, "job.json").write_text(json.dumps(document))
    with pytest.raises(BottlekitError, match=words) as caught:
        BuildJob.load(folder).key()
    assert isinstance(caught.value, (BundleError, UnknownNameError))
    assert "\n" not in str(caught.value)


def test_a_cache_that_is_not_listed_is_not_used(tmp_path):
    folder = make_job(tmp_path / "job")
    Path(folder, "timing.cache").write_bytes(b"from elsewhere")
    assert BuildJob.load(folder).options.timing_cache == b""


def test_a_part_that_the_bundle_has_not_is_refused(tmp_path):
    folder = make_job(tmp_path / "job", part="baseline")
    rb2 = Path(RB1).parent / "rb2"
    document = json.loads(Path(folder, "job.json").read_text())
    for name in ("bundle.json", "golden.npz"):
        Path(folder, name).write_bytes((rb2 / name).read_bytes())
    document["bundle"]["sha256"] = sha256_of_file(str(rb2 / "bundle.json"))
    Path(folder, "job.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"has no baseline\.onnx"):
        BuildJob.load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": NaN}'])
def test_what_is_no_json_is_one_line(tmp_path, content):
    folder = make_job(tmp_path / "job")
    Path(folder, "job.json").write_bytes(content)
    with pytest.raises(BundleError, match="is no (readable )?build job"):
        BuildJob.load(folder)
