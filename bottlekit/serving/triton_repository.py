"""A fleet as a model repository of NVIDIA Triton.

::

    repository/
      repository.json                      what was exported: bundles, models, options
      <bundle>-<hash>/                     ensemble: payload -> decode -> tail -> logits
      <bundle>-<hash>-decode/1/            Python backend: model.py, step.json, the island as one file, codec.npz
      <bundle>-<hash>-tail/1/              model.onnx, model.plan, or model.py that runs graph.onnx
      <bundle>-<hash>-whole/               ensemble: file -> image -> network -> logits, for cloud-only requests
      image-<hash>/1/, network-<hash>/1/   its steps; bundles that have them in common share them

The hash in an ensemble's name is the beginning of the bundle's: a Triton that serves another export of a bundle
does not know the name, so that it cannot give a wrong answer.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bottlekit
from bottlekit.device.bundle import CODEC_FILE, Bundle
from bottlekit.device.engine import Engine
from bottlekit.device.files import sha256_of_json, whole_folder, write_json
from bottlekit.device.pipeline import whole_part
from bottlekit.device.triton_model import GRAPH_FILE, IMAGE_FILE, LOGITS, PAYLOAD, STEP_FILE, TABLES_FILE
from bottlekit.errors import EngineError, UsageError
from bottlekit.serving.triton_config import Step, Tensor, config_of_ensemble, config_of_model

FORMAT = "bottlekit-triton"
VERSION = 1
AGENT = "bottlekit-agent.pyz"
BACKENDS = ("onnxruntime", "python")
_HASH_DIGITS = 12

_MODEL_PY = '''"""Written by bottlekit export-triton. What runs lies in {agent}: bottlekit's device part."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "{agent}"))

from bottlekit.device.triton_model import {model} as TritonPythonModel  # noqa: E402, F401
'''


@dataclasses.dataclass(frozen=True)
class RepositoryOptions:
    """How Triton shall run a fleet.

    `max_batch` the most requests that are computed together, `queue_delay_us` how long the first of them may wait
    for others; `backend` what runs ONNX files, one of BACKENDS; `decoders` and `tails` how many instances there are
    of each (tails: on each GPU); `threads` those of a tail on the processor, None for all cores; `whole` whether
    whole networks are there for cloud-only requests.
    """

    max_batch: int = 16
    queue_delay_us: int = 0
    backend: str = "onnxruntime"
    decoders: int = 2
    tails: int = 1
    threads: int | None = None
    whole: bool = True


def ensemble_name(bundle: Bundle) -> str:
    """What Triton calls the way from a bundle's payload to its logits."""
    return f"{bundle.name}-{bundle.sha256[:_HASH_DIGITS]}"


def whole_name(bundle: Bundle) -> str:
    """What Triton calls the way from an image file to the logits of a bundle's whole network."""
    return ensemble_name(bundle) + "-whole"


def repository_from_fleet(
    bundles: Sequence[Bundle],
    path: Path,
    pack_agent: Callable[[Path], object],
    options: RepositoryOptions,
    engines: Mapping[str, Mapping[str, Engine]] | None = None,
    force: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Write the repository of a fleet to `path`, whole or not at all, and return what repository.json says.

    `pack_agent` writes the device island as one file. `engines` has each bundle's engines by its name and part;
    without it the bundles' own ONNX files run.

    Raises:
        UsageError: options out of bounds, `path` exists and not `force`, or engines that Triton cannot run.
        EngineError: a part without an engine.
    """
    _check(options)
    with whole_folder(str(path), force) as folder:
        writer = _Writer(Path(folder), pack_agent, options)
        written = []
        for bundle in bundles:
            of_bundle = None if engines is None else engines[bundle.name]
            entry = {
                "name": bundle.name,
                "split": bundle.split["name"],
                "sha256": bundle.sha256,
                "model": writer.write_split(bundle, of_bundle),
            }
            if options.whole:
                entry["whole"] = writer.write_whole(bundle, of_bundle)
            written.append(entry)
        document = {
            "format": FORMAT,
            "version": VERSION,
            "bottlekit": bottlekit.__version__,
            "command": command,
            "options": dataclasses.asdict(options),
            "bundles": written,
            "models": sorted(one.name for one in Path(folder).iterdir()),
        }
        write_json(os.path.join(folder, "repository.json"), document)
    return document


def _check(options: RepositoryOptions) -> None:
    if options.backend not in BACKENDS:
        raise UsageError(f"--backend must be {' or '.join(BACKENDS)}, not '{options.backend}'")
    for option, value, least, most in (
        ("--max-batch", options.max_batch, 1, 1024),
        ("--queue-delay-us", options.queue_delay_us, 0, 1_000_000),
        ("--decoders", options.decoders, 1, 256),
        ("--tails", options.tails, 1, 64),
        ("--threads", 1 if options.threads is None else options.threads, 1, 1024),
    ):
        if not least <= value <= most:
            raise UsageError(f"{option} must be {least} to {most}, not {value}")


class _Writer:
    """Writes models into one folder; a step that several bundles have in common is written once."""

    def __init__(self, folder: Path, pack_agent: Callable[[Path], object], options: RepositoryOptions) -> None:
        self._folder = folder
        self._pack_agent = pack_agent
        self._options = options
        self._agent: Path | None = None

    def write_split(self, bundle: Bundle, engines: Mapping[str, Engine] | None) -> str:
        name = ensemble_name(bundle)
        c, h, w = bundle.feature_shape
        feature = Tensor("feature", "FP32", (c, h, w))
        logits = Tensor(LOGITS, "FP32", (len(bundle.classes),))
        batch = self._write_graph(name + "-tail", bundle, "tail", engines, feature, logits)
        step = {"codec": bundle.manifest["codec"], "feature": [c, h, w]}
        payload = Tensor(PAYLOAD, "STRING", (1,))
        version = self._write_python(name + "-decode", "PayloadModel", step, batch, payload, feature)
        tables = Path(bundle.path) / CODEC_FILE
        if tables.exists():
            shutil.copyfile(tables, version / TABLES_FILE)
        steps = [Step(name + "-decode", payload, feature), Step(name + "-tail", feature, logits)]
        self._write_ensemble(name, steps, batch)
        return name

    def write_whole(self, bundle: Bundle, engines: Mapping[str, Engine] | None) -> str:
        name, part = whole_name(bundle), whole_part(bundle)
        image = Tensor("image", "FP32", bundle.input_shape[1:])
        logits = Tensor(LOGITS, "FP32", (len(bundle.classes),))
        graph = engines[part].sha256 if engines is not None and part in engines else bundle.onnx_sha256(part)
        network = "network-" + graph[:_HASH_DIGITS]
        batch = self._write_graph(network, bundle, part, engines, image, logits)
        step = {"preprocessing": bundle.preprocessing}
        decoder = "image-" + sha256_of_json({**step, "batch": batch})[:_HASH_DIGITS]
        file = Tensor(IMAGE_FILE, "STRING", (1,))
        self._write_python(decoder, "ImageModel", step, batch, file, image)
        self._write_ensemble(name, [Step(decoder, file, image), Step(network, image, logits)], batch)
        return name

    def _write_graph(
        self,
        name: str,
        bundle: Bundle,
        part: str,
        engines: Mapping[str, Engine] | None,
        tensor: Tensor,
        logits: Tensor,
    ) -> int:
        """Write the model that computes one part; returns the largest batch it takes, 0 for one image at a time."""
        source, kind, batch = self._graph(bundle, part, engines)
        options = self._options
        if kind == "python":
            step = {"threads": options.threads}
            version = self._write_python(name, "GraphModel", step, batch, tensor, logits, options.tails)
            _copy_once(source, version / GRAPH_FILE)
            return batch
        if kind == "tensorrt":
            group, file, parameters = (options.tails, "KIND_GPU"), "model.plan", {}
        else:
            group, file = (options.tails, "KIND_AUTO"), "model.onnx"
            threads = options.threads
            parameters = {} if threads is None else {"intra_op_thread_count": str(threads)}
        config = config_of_model(
            name, kind, batch, [tensor], [logits], group, options.queue_delay_us, parameters, default_file=file
        )
        _copy_once(source, self._write_config(name, config) / file)
        return batch

    def _graph(self, bundle: Bundle, part: str, engines: Mapping[str, Engine] | None) -> tuple[Path, str, int]:
        """(the file, what runs it, the largest batch) of a part."""
        batch = self._options.max_batch if bundle.dynamic_batch else 0
        if engines is None:
            bundle.check_part(part)
            return Path(bundle.onnx_path(part)), self._options.backend, batch
        if part not in engines:
            also = "" if part == "tail" else ", or leave whole networks out with --no-whole"
            target = next(iter(engines.values())).target
            raise EngineError(
                f"no engine of {bundle.name}'s {part} for {target}; build it: "
                f"bottlekit build {bundle.path} --target {target} --part {part}{also}"
            )
        engine = engines[part]
        if engine.kind == "tensorrt_rtx":
            raise UsageError(
                f"{engine.path} is a plan of TensorRT-RTX, which Triton has no backend for; build for a target "
                "whose compiler is TensorRT, or leave --engines out to run the bundle's ONNX files"
            )
        if engine.has_plugin:
            raise UsageError(
                f"{engine.path} was built with --plugin and takes codes, and Triton's decoder gives features; "
                "build it again without --plugin"
            )
        if engine.kind == "onnxruntime":
            return Path(engine.path), self._options.backend, batch
        return Path(engine.path), "tensorrt", min(batch, _largest_batch(engine))

    def _write_python(
        self,
        name: str,
        model: str,
        step: Mapping[str, Any],
        batch: int,
        taken: Tensor,
        given: Tensor,
        instances: int | None = None,
    ) -> Path:
        options = self._options
        group = (instances or options.decoders, "KIND_CPU")
        config = config_of_model(
            name, "python", batch, [taken], [given], group, options.queue_delay_us, {}, default_file="model.py"
        )
        version = self._write_config(name, config)
        (version / "model.py").write_text(_MODEL_PY.format(agent=AGENT, model=model), encoding="utf-8")
        write_json(str(version / STEP_FILE), dict(step))
        if self._agent is None:
            self._pack_agent(version / AGENT)
            self._agent = version / AGENT
        else:
            _copy_once(self._agent, version / AGENT)
        return version

    def _write_ensemble(self, name: str, steps: Sequence[Step], batch: int) -> None:
        self._write_config(name, config_of_ensemble(name, steps, batch))

    def _write_config(self, name: str, config: str) -> Path:
        """Write a model's config.pbtxt; its folder of version 1, which Triton wants to exist."""
        version = self._folder / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (self._folder / name / "config.pbtxt").write_text(config, encoding="utf-8")
        return version


def _largest_batch(engine: Engine) -> int:
    """The largest batch that a plan was built for; 0 for a plan of fixed shapes."""
    profiles = engine.sidecar["key"].get("profiles") or {}
    return min((int(largest[0]) for _, _, largest in profiles.values()), default=0)


def _copy_once(source: Path, target: Path) -> None:
    if not target.exists():
        shutil.copyfile(source, target)
