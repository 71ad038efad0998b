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

    A reader therefore sees the old file or the new one, never half of one. A place that cannot be written to is
    a UsageError.
    """
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    with _writing(path):
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix="." + os.path.basename(path) + ".", suffix=".part", dir=folder)
        os.close(handle)
    try:
        yield temporary
        with _writing(path):
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


@contextlib.contextmanager
def whole_folder(path: str, force: bool = False) -> Iterator[str]:
    """Yield a temporary folder next to `path`; rename it to `path` on success, remove it on any error.

    What exists at `path` is refused with a UsageError, or with `force` replaced once the new folder is complete:
    but never a folder that the user is in or at home in. A place that cannot be written to is a UsageError.
    """
    path = os.path.abspath(os.fspath(path))
    if os.path.lexists(path):
        if not force:
            raise UsageError("{} exists already; choose another name or pass --force to replace it".format(path))
        for inside in (os.getcwd(), os.path.expanduser("~")):
            real = os.path.realpath(path)
            if os.path.commonpath([real, os.path.realpath(inside)]) == real:
                raise UsageError("{} is not replaced, as {} lies in it; choose another name".format(path, inside))
    parent, name = os.path.split(path)
    with _writing(path):
        os.makedirs(parent, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix="." + name + ".", suffix=".part", dir=parent)
    try:
        yield temporary
        with _writing(path):
            os.chmod(temporary, 0o777 & ~_umask())
            _replace_folder(temporary, path)
    finally:
        if os.path.exists(temporary):
            shutil.rmtree(temporary)


def _replace_folder(new: str, path: str) -> None:
    """Move `new` to `path`. What was there is moved aside first, and back again if `new` cannot take its place."""
    if not os.path.lexists(path):
        os.rename(new, path)
        return
    old = new + ".old"
    os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        os.rename(old, path)
        raise
    if os.path.isdir(old) and not os.path.islink(old):
        shutil.rmtree(old)
    else:
        os.remove(old)


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """Turn the system's refusal to write at `path` into one clear line."""
    try:
        yield
    except OSError as error:
        raise UsageError("cannot write {}: {}; choose another place".format(path, error.strerror or error))


def _umask() -> int:
    """What this process takes away from the rights of new files; asking for it means setting it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


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
