"""The arrows of the package, proved from its source: who imports whom, and what is never imported.

    cli -> everything; demo -> every room but cli
    build, report -> export, targets, device, planning
    export -> training -> models
    planning -> specs, errors
    device -> nothing but itself

Every import counts, wherever it stands: inside a function, inside `if TYPE_CHECKING`. There is therefore no
import that dodges a cycle either.
"""

from __future__ import annotations

import ast
import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What everybody may use; "" is bottlekit/__init__.py, which holds the version and imports nothing.
COMMON = {"", "device", "errors", "specs"}
ARROWS: dict[str, set[str]] = {
    "": set(),
    "device": {""},
    "errors": {"device"},
    "specs": {"errors"},
    "models": COMMON,
    "training": COMMON | {"models"},
    "export": COMMON | {"models", "training"},
    "targets": COMMON,
    "planning": {"errors", "specs"},
    "build": COMMON | {"export", "targets", "planning"},
    "report": COMMON | {"export", "targets", "planning"},
    "serving": COMMON,
    "demo": COMMON | {"models", "training", "export", "targets", "planning", "build", "report"},
    "cli": COMMON | {"models", "training", "export", "targets", "planning", "build", "report", "serving", "demo"},
    "__main__": {"cli"},
}
WORKSHOP = {"models", "training", "export"}
TORCH = {"torch", "torchvision", "accelerate"}

DEVICE_PACKAGES = {
    "numpy", "PIL", "simplejpeg", "thrift", "tensorrt", "tensorrt_rtx", "pycuda", "cuda", "pynvml",
    "onnxruntime", "jtop", "smbus2", "pkg_resources", "triton_python_backend_utils",
}  # fmt: skip
NEWER_THAN_36 = {"dataclasses", "contextvars", "zoneinfo", "graphlib", "tomllib", "_interpreters"}
PURE = {
    "__future__", "bisect", "collections", "dataclasses", "enum", "functools", "heapq", "itertools", "math",
    "numpy", "operator", "statistics", "types", "typing",
}  # fmt: skip


def modules_of(root: Path) -> dict[str, Path]:
    """Every module below `root`/bottlekit by its full name; what the Thrift compiler wrote is left out."""
    found = {}
    for path in sorted((root / "bottlekit").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if "generated" not in parts and not any(part.startswith(".") for part in parts):
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The full name of everything a module imports, of bottlekit and of others, at any depth of the source."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{origin}.{alias.name}"
                yield name if name in known else origin
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def room_of(module: str) -> str:
    """The room of a module: its first name below bottlekit."""
    return [*module.split("."), ""][1]


def wrong_arrows(root: Path) -> list[str]:
    """Every import that the arrows do not allow, as 'module -> imported'."""
    known = modules_of(root)
    return [
        f"{module} -> {name}"
        for module, path in known.items()
        for name in imports_of(module, path, known)
        if name.split(".")[0] == "bottlekit"
        and room_of(name) != room_of(module)
        and room_of(name) not in ARROWS.get(room_of(module), set())
    ]


def cycles(root: Path) -> list[str]:
    """One line for each cycle found: 'a -> b -> a'."""
    known = modules_of(root)
    edges = {
        module: sorted({name for name in imports_of(module, path, known) if name in known} - {module})
        for module, path in known.items()
    }
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append(" -> ".join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for other in edges[module]:
                visit(other, [*trail, module])
            done.add(module)

    for module in edges:
        visit(module, [])
    return found


def foreign_imports(root: Path, rooms: set[str]) -> Iterator[tuple[str, str]]:
    """(module, package) for every package outside bottlekit that modules of these rooms import."""
    known = modules_of(root)
    for module, path in known.items():
        if room_of(module) in rooms:
            for name in imports_of(module, path, known):
                if name.split(".")[0] != "bottlekit":
                    yield module, name.split(".")[0]


def test_every_room_has_its_arrows() -> None:
    assert {room_of(module) for module in modules_of(ROOT)} == set(ARROWS)


def test_arrows_point_one_way() -> None:
    assert wrong_arrows(ROOT) == []


def test_there_are_no_cycles() -> None:
    assert cycles(ROOT) == []


def test_only_the_workshop_imports_torch() -> None:
    rooms = set(ARROWS) - WORKSHOP
    assert [found for found in foreign_imports(ROOT, rooms) if found[1] in TORCH] == []


def test_the_device_needs_few_packages() -> None:
    allowed = (set(sys.stdlib_module_names) - NEWER_THAN_36) | DEVICE_PACKAGES
    assert [found for found in foreign_imports(ROOT, {"device"}) if found[1] not in allowed] == []


def test_planning_is_pure() -> None:
    assert [found for found in foreign_imports(ROOT, {"planning"}) if found[1] not in PURE] == []
    for module, path in modules_of(ROOT).items():
        if room_of(module) == "planning":
            calls = [ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not {"open", "print", "input", "exec", "eval"} & set(calls), module


DEVICE_SOURCES = sorted((ROOT / "bottlekit/device").rglob("*.py")) + sorted((ROOT / "tests/device").rglob("*.py"))


@pytest.mark.parametrize("path", DEVICE_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_device_sources_are_python_36(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 6))
    futures = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    assert futures == []


def python36() -> str | None:
    """An interpreter that really is Python 3.6."""
    candidates = [os.environ.get("PYTHON36"), shutil.which("python3.6")]
    candidates += sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.6.*/bin/python")))
    for candidate in candidates:
        if candidate:
            answer = subprocess.run([candidate, "-V"], capture_output=True, text=True, check=False)
            if answer.returncode == 0 and (answer.stdout + answer.stderr).startswith("Python 3.6."):
                return candidate
    return None


def test_a_real_python_36_compiles_the_device() -> None:
    python = python36()
    if python is None:
        pytest.skip("no Python 3.6 here (set PYTHON36 to one)")
    script = "import sys\nfor name in sys.argv[1:]: compile(open(name, encoding='utf-8').read(), name, 'exec')"
    done = subprocess.run(
        [python, "-c", script, *map(str, DEVICE_SOURCES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def loaded_by(program: str) -> set[str]:
    """The modules a fresh interpreter has loaded after running `program`."""
    script = f"{program}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_command_line_starts_without_anything_heavy() -> None:
    heavy = TORCH | {
        "numpy",
        "onnx",
        "onnxruntime",
        "matplotlib",
        "jinja2",
        "PIL",
        "thrift",
        "tensorrt_rtx",
        "sklearn",
    }
    loaded = loaded_by("import bottlekit.cli.main")
    assert "bottlekit.cli.train" in loaded
    assert loaded & heavy == set()
    stages = {"bottlekit.models", "bottlekit.training", "bottlekit.export", "bottlekit.build", "bottlekit.demo"}
    assert loaded & stages == set()


def test_the_device_loads_no_torch_and_no_other_room() -> None:
    modules = [module for module in modules_of(ROOT) if room_of(module) == "device"]
    loaded = loaded_by("\n".join(f"import {module}" for module in modules))
    assert set(modules) <= loaded
    assert loaded & TORCH == set()
    rooms = {room_of(module) for module in loaded if module.split(".")[0] == "bottlekit"}
    assert rooms == {"", "device"}


# The checks themselves, on packages that break the rules.


def package(root: Path, **sources: str) -> Path:
    """A package called bottlekit below `root`: planning__links='...' is bottlekit/planning/links.py."""
    for name, source in sources.items():
        path = root / "bottlekit" / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    "source",
    [
        "import bottlekit.models.units",
        "from bottlekit.models import units",
        "from bottlekit.models.units import Unit",
        "def late():\n    from bottlekit.models import units",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import bottlekit.models.units",
        "from ..models import units",
        "from .. import models",
        "import importlib\nimportlib.import_module('bottlekit.models.units')",
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, source: str) -> None:
    root = package(tmp_path, models__units="Unit = 1", planning__links=source)
    (root / "bottlekit/models/__init__.py").touch()
    found = wrong_arrows(root)
    assert len(found) == 1
    assert found[0].startswith("bottlekit.planning.links -> bottlekit.models")


def test_a_right_arrow_is_allowed(tmp_path: Path) -> None:
    root = package(tmp_path, specs="", planning__links="from bottlekit.specs import LinkSpec\nimport math")
    assert wrong_arrows(root) == []


@pytest.mark.parametrize("late", ["from bottlekit.device.a import x", "def f():\n    from .a import x"])
def test_a_cycle_is_found(tmp_path: Path, late: str) -> None:
    root = package(
        tmp_path, device__a="from bottlekit.device import b", device__b="from .c import y", device__c=late
    )
    assert cycles(root) == [
        "bottlekit.device.a -> bottlekit.device.b -> bottlekit.device.c -> bottlekit.device.a",
    ]


def test_a_package_of_others_is_found(tmp_path: Path) -> None:
    root = package(tmp_path, planning__links="import os.path\nfrom numpy import zeros\nimport math")
    assert list(foreign_imports(root, {"planning"})) == [
        ("bottlekit.planning.links", name) for name in ("os", "numpy", "math")
    ]
