import numpy as np
import pytest

from bottlekit.planning.schedule.pareto import pareto_rows


def kept_by_definition(values: np.ndarray) -> set[tuple[float, ...]]:
    rows = [tuple(row) for row in values.tolist()]
    return {
        row
        for row in rows
        if not any(other != row and all(a <= b for a, b in zip(other, row, strict=True)) for other in rows)
    }


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("seed", range(30))
def test_what_is_kept_is_what_nothing_undercuts(columns: int, seed: int) -> None:
    generator = np.random.default_rng([seed, columns])
    # Few values, so that many rows are equal in one column, or in all.
    values = generator.integers(0, 6, (int(generator.integers(0, 60)), columns)).astype(float)
    rows = pareto_rows(values)
    kept = [tuple(row) for row in values[rows].tolist()]
    assert set(kept) == kept_by_definition(values)
    assert len(kept) == len(set(kept))
    assert kept == sorted(kept)


def test_four_columns_are_too_many() -> None:
    with pytest.raises(ValueError, match="4 columns"):
        pareto_rows(np.zeros((2, 4)))
