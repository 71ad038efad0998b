"""Habits of the project that no linter knows: short files, and documentation that cannot lag behind."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import bottlekit
from bottlekit import errors, specs

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs/reference"
MOST_LINES = 350

SPECS_OF_PAGES = {
    "bundle.md": ("ModelSpec", "SplitSpec", "BottleneckSpec", "CodecSpec", "Preprocessing"),
    "profile.md": ("LinkSpec",),
}


def sections(page: Path) -> dict[str, str]:
    """The text below each heading of a page, by heading."""
    found: dict[str, str] = {}
    heading = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("`", "")
        found[heading] = found.get(heading, "") + line + "\n"
    return found


def test_files_can_be_read_in_one_sitting() -> None:
    sources = [path for path in (ROOT / "bottlekit").rglob("*.py") if "generated" not in path.parts]
    assert sources
    long = {str(path.relative_to(ROOT)): lines for path in sources if (lines := line_count(path)) > MOST_LINES}
    assert long == {}


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", text, re.MULTILINE)
    assert bottlekit.__version__ in [version for version, _ in headings]
    for version, date in headings:
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), version
        assert date == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", date), version
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_error_is_documented_with_its_exit_status() -> None:
    text = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d) \|", text, re.MULTILINE))
    classes = {name: getattr(errors, name) for name in errors.__all__}
    assert rows == {name: str(error.exit_code) for name, error in classes.items()}


def test_every_error_can_be_imported_where_all_of_them_are() -> None:
    from bottlekit.device import errors as tree

    defined = {
        name for name, value in vars(tree).items() if inspect.isclass(value) and value.__module__ == tree.__name__
    }
    assert defined == set(errors.__all__)
    assert all(name in (tree.__doc__ or "") for name in defined)


@pytest.mark.parametrize(
    ("page", "spec"), [(page, spec) for page, names in SPECS_OF_PAGES.items() for spec in names]
)
def test_every_field_of_a_spec_is_documented(page: str, spec: str) -> None:
    text = sections(REFERENCE / page)[spec]
    documented = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert documented == [field.name for field in dataclasses.fields(getattr(specs, spec))]


def test_every_spec_has_its_page() -> None:
    classes = {name for name, value in vars(specs).items() if dataclasses.is_dataclass(value)}
    assert classes == {name for names in SPECS_OF_PAGES.values() for name in names}


def make_cli() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cli", REFERENCE / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_the_command_line_is_what_the_command_line_says() -> None:
    module: Any = make_cli()
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run: python docs/reference/make_cli.py"
    for verb in ("demo", "train", "export", "build", "bench", "plan", "serve", "infer", "models", "targets"):
        assert f"## bottlekit {verb}\n" in module.page()


def test_the_wire_is_documented() -> None:
    text = (REFERENCE / "wire.md").read_text(encoding="utf-8")
    idl = (ROOT / "bottlekit/device/wire/bottlekit.thrift").read_text(encoding="utf-8")
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", idl, flags=re.DOTALL)
    names = re.findall(r"\b(?:struct|exception|enum|service) (\w+)", code)
    names += re.findall(r"^\s+\w+ (\w+)\(1:", code, re.MULTILINE)
    assert {"Answer", "Refused", "infer"} <= set(names)
    assert [name for name in names if f"`{name}" not in text] == []


LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for pair in LINK.findall(page.read_text(encoding="utf-8")):
        target = next(filter(None, pair))
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in sections(file)}
            assert anchor in anchors, target


def test_every_page_is_linked_from_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "index.md" or f"({name})" in index, name


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs/decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers
