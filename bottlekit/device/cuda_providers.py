"""The CUDA provider that a machine has.

::

    name or "auto" --provider_from_name--> pycuda, cuda-python or ctypes, whichever works first
"""

import contextlib
from typing import Iterator, List

from .cuda import CudaProvider
from .cuda_pycuda import PycudaProvider
from .cuda_runtime import RuntimeProvider, runtime_from_ctypes, runtime_from_cuda_python
from .errors import EngineError, TargetError, UnknownNameError

PROVIDER_NAMES = ("pycuda", "cuda-python", "ctypes")


def provider_from_name(name: str = "auto", device: int = 0) -> CudaProvider:
    """Open a provider by name; `auto` takes the first that works and, if none does, says why for each."""
    if name != "auto" and name not in PROVIDER_NAMES:
        raise UnknownNameError("CUDA provider", name, ("auto",) + PROVIDER_NAMES)
    reasons: List[str] = []
    for candidate in PROVIDER_NAMES if name == "auto" else (name,):
        try:
            return _open(candidate, device)
        except (TargetError, EngineError) as error:
            reasons.append("{}: {}".format(candidate, error))
    raise TargetError("no CUDA provider works on this machine ({})".format("; ".join(reasons)))


def _open(name: str, device: int) -> CudaProvider:
    if name == "pycuda":
        return PycudaProvider(device)
    runtime = runtime_from_ctypes() if name == "ctypes" else runtime_from_cuda_python()
    return RuntimeProvider(name, runtime, device)


@contextlib.contextmanager
def open_provider(name: str = "auto", device: int = 0) -> Iterator[CudaProvider]:
    """A provider that is attached to this thread, and closed at the end of the `with`."""
    provider = provider_from_name(name, device)
    try:
        with provider.attach():
            yield provider
    finally:
        provider.close()
