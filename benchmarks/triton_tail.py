"""A real tritonserver with a bundle's decoder and tail, and clients that ask it. For serving.py.

The server is the one of the tests (tests/triton_server.py): Triton 2.51 of the package nvidia-pytriton, which has
the Python backend and no other. So decoder and tail run as `export-triton --backend python` writes them: the tail
on the same ONNX Runtime, with the same engine file and as many threads as in `bottlekit serve`, in a process of its
own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from load import Questions

from bottlekit.build.agent_pack import pack_agent
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import Engine
from bottlekit.device.triton_model import LOGITS, PAYLOAD
from bottlekit.serving.kserve import floats_from_response, infer_request, method
from bottlekit.serving.triton_repository import RepositoryOptions, ensemble_name, repository_from_fleet

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

# Asks the question of a number, in the turn of a number: its logits, and how many shared a batch.
Ask = Callable[[int, int], Awaitable[tuple[np.ndarray, int]]]


@contextlib.contextmanager
def triton_with(bundle: Bundle, tail: Engine, folder: Path, max_batch: int, threads: int | None) -> Iterator[Any]:
    """A Triton that runs this tail, once it is ready. Ends the run where it cannot be had."""
    from _pytest.outcomes import Skipped
    from triton_server import triton_home, triton_running

    options = RepositoryOptions(max_batch, backend="python", decoders=1, threads=threads, whole=False)
    repository_from_fleet([bundle], folder / "repository", pack_agent, options, {bundle.name: {"tail": tail}})
    try:
        home = triton_home()
    except Skipped as why:
        raise SystemExit(f"{why}; measure without it: --without triton --without front") from why
    with triton_running(home, folder / "repository", folder) as triton:
        yield triton


@contextlib.asynccontextmanager
async def kserve_client(address: tuple[str, int], questions: Questions, bundle: Bundle) -> AsyncIterator[Ask]:
    """A channel to Triton with a connection of its own, which channels of one process share otherwise."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    model, shape = ensemble_name(bundle), (1, len(bundle.classes))
    numbers = itertools.count(1)
    async with grpc.aio.insecure_channel("{}:{}".format(*address), options=options) as channel:
        infer = method("ModelInfer").on(channel)

        async def ask(which: int, _turn: int) -> tuple[np.ndarray, int]:
            payload = questions.all[which].payload
            request = infer_request(model, PAYLOAD, [payload], bundle.dynamic_batch, str(next(numbers)))
            return floats_from_response(await infer(request), request, LOGITS, shape)[0], 1

        yield ask


def tail_runs(http_port: int, bundle: Bundle) -> tuple[int, int]:
    """(requests, times that the tail ran) by Triton's own count, since it started."""
    url = f"http://127.0.0.1:{http_port}/v2/models/{ensemble_name(bundle)}-tail/stats"
    with urllib.request.urlopen(url, timeout=60) as answer:
        (found,) = json.load(answer)["model_stats"]
    return int(found["inference_count"]), int(found["execution_count"])
