"""Files that are written whole or not at all, and the hashes that name them."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from typing import Any, Dict, Iterator

from .errors import BundleError, UsageError


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[str]:
    """Yield a temporary name next to `path`; rename it to `path` on success, remove it on any error.

    A reader therefore sees the old file or the new one, never half of one.
    """
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix="." + os.path.basename(path) + ".", suffix=".part", dir=folder)
    os.close(handle)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


@contextlib.contextmanager
def whole_folder(path: str, force: bool = False) -> Iterator[str]:
    """Yield a temporary folder next to `path`; rename it to `path` on success, remove it on any error.

    An existing folder at `path` is refused, or with `force` replaced once the new one is complete.
    """
    path = os.path.abspath(os.fspath(path))
    if os.path.exists(path) and not force:
        raise UsageError("{} exists already; choose another name or pass --force to replace it".format(path))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = tempfile.mkdtemp(
        prefix="." + os.path.basename(path) + ".", suffix=".part", dir=os.path.dirname(path)
    )
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o777 & ~umask)
        if os.path.exists(path):
            old = temporary + ".old"
            os.rename(path, old)
            os.rename(temporary, path)
            if os.path.isdir(old):
                shutil.rmtree(old)
            else:
                os.remove(old)
        else:
            os.rename(temporary, path)
    finally:
        if os.path.exists(temporary):
            shutil.rmtree(temporary)


def sha256_of_file(path: str) -> str:
    """The SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_json(value: Any) -> str:
    """The SHA-256 of a JSON value in canonical form (sorted keys, no spaces), in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def write_json(path: str, value: Any) -> None:
    """Write a JSON document whole: indented, keys in the order given, no NaN, a newline at the end."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def read_json(path: str, what: str) -> Dict[str, Any]:
    """Read a JSON object; `what` names it in the error ("bundle", "profile", ...)."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file, parse_constant=_refused_constant)
    except FileNotFoundError:
        raise BundleError("no {} at {}: the file does not exist".format(what, path))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError("{} is no readable {}: {}".format(path, what, error))
    if not isinstance(value, dict):
        raise BundleError("{} is no {}: it holds a JSON {}, not an object".format(path, what, type(value).__name__))
    return value


def _refused_constant(name: str) -> Any:
    """Python writes and reads NaN and Infinity, which are not JSON."""
    raise ValueError("{} is not JSON".format(name))
