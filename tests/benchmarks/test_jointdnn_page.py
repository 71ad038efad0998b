"""docs/jointdnn.md is what its recorded profiles say, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType


def test_the_page_is_made_from_its_results(benchmark_module: Callable[[str], ModuleType]) -> None:
    table, page = benchmark_module("jointdnn_table"), benchmark_module("jointdnn_page")
    lines = table.recorded()
    made = page.page(lines, table.settings(lines), table.rows_of(lines))
    assert made == table.PAGE.read_text(encoding="utf-8")
