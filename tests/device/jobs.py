"""Build jobs of the committed tiny fleet, for the tests of building."""

from pathlib import Path

from bottlekit.device.build_job import job_document, write_job
from bottlekit.device.bundle import Bundle
from bottlekit.device.trt import PlanOptions

RB1 = str(Path(__file__).parent.parent / "data" / "tiny_fleet" / "rb1")
MAX_BATCH = 4
WORKSPACE_BYTES = 256 << 20


def make_job(folder, part="head", kind="tensorrt", precision="fp32", graph=None, timing_cache=None, **changes):
    """Write a job for a part of the tiny bundle rb1; `changes` replace arguments of `job_document`."""
    bundle = Bundle.load(RB1)
    options = PlanOptions(
        workspace_bytes=WORKSPACE_BYTES if kind != "onnxruntime" else 0,
        profiles=profiles_of(bundle, part) if kind != "onnxruntime" else None,
        precision="typed" if kind != "tensorrt" else precision,
    )
    arguments = {
        "target": "double",
        "kind": kind,
        "options": options,
        "tolerance": "fp16" if precision == "fp16" else "fp32",
        "key": {"onnx_sha256": bundle.onnx_sha256(part), "precision": precision},
        "sidecar": {"precision": precision if precision != "typed" else "fp32", "command": "a test"},
    }
    arguments.update(changes)
    document = job_document(bundle, part, **arguments)
    write_job(str(folder), document, RB1, str(graph or bundle.onnx_path(part)), timing_cache)
    return str(folder)


def profiles_of(bundle, part):
    name = "feature" if part == "tail" else "image"
    shape = tuple(bundle.feature_shape) if part == "tail" else tuple(bundle.input_shape[1:])
    return {name: ((1,) + shape, (1,) + shape, (MAX_BATCH,) + shape)}


def files_of(folder):
    """Everything below a folder, as sorted paths relative to it."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


JOB_FILES = ["bundle.json", "golden.npz", "graph.onnx", "job.json"]
