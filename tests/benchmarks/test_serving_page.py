"""The page of the benchmark of serving, against its data."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def page(benchmark_module: Callable[[str], ModuleType]) -> Any:
    return benchmark_module("serving_picture")


def test_the_table_is_what_its_data_gives(page: Any) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    again = page.page_with_table(text, page.last_line()["cases"])
    assert again == text, "run: python benchmarks/serving_picture.py"


def test_the_picture_shows_every_way(page: Any) -> None:
    drawn = page.PICTURE.read_text(encoding="utf-8")
    for name in page.NAMES.values():
        assert name in drawn


def test_as_many_answers_were_checked_as_the_page_says(page: Any) -> None:
    cases = page.last_line()["cases"]
    assert [case["clients"] for case in cases] == [1, 8, 32, 128]
    answers = sum(case[way]["answers"] for case in cases for way in page.NAMES)
    assert f"{answers:,} answers was checked" in page.PAGE.read_text(encoding="utf-8")
