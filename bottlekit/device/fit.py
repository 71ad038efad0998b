"""Whether a plan fits a machine: told before TensorRT sees it, which may crash on one that does not."""

from typing import Any, Dict, List

from .errors import EngineError


def is_version(version: str, prefix: str) -> bool:
    """Whether a version is one of those that a prefix of whole parts names: 8.2.1.8 is an 8.2, and 8.20 is none."""
    wanted = prefix.split(".")
    return version.split(".")[: len(wanted)] == wanted


def require_fits(path: str, key: Dict[str, Any], version: str, gpu: Dict[str, Any]) -> None:
    """EngineError, naming each field that differs, for a plan whose key is of another TensorRT or GPU.

    `version` is that of TensorRT here, `gpu` what a CUDA provider tells of the device. What the key does not have
    is not compared.
    """
    differing: List[str] = []
    here = {"compiler_version": version, "sm": gpu["sm"], "gpu": gpu["name"]}
    for field, words in (("compiler_version", "TensorRT"), ("sm", "SM"), ("gpu", "GPU")):
        built = key.get(field)
        # trtexec does not tell the last part of its version before TensorRT 10: there a prefix is all there is.
        same = built == here[field] or (field == "compiler_version" and is_version(version, str(built)))
        if built is not None and not same:
            differing.append("{} was {}, is {}".format(words, built, here[field]))
    if differing:
        raise EngineError(
            "{} was not built for this machine: {}; build it again here".format(path, ", ".join(differing))
        )
