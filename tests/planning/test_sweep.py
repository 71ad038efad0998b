import json
from pathlib import Path
from typing import Any

import pytest

from bottlekit.errors import ReportError, UsageError
from bottlekit.planning import LINKS, plan_from_profile
from bottlekit.planning.sweep import steps, sweep_from_planner
from bottlekit.report.sweep_picture import sweep_picture
from bottlekit.specs import LinkSpec

PROFILE = json.loads((Path(__file__).parents[1] / "data/profile.json").read_text(encoding="utf-8"))


def planner(link: LinkSpec, load: float) -> dict[str, Any]:
    return plan_from_profile(PROFILE, link, "energy", server_load=load)


def test_every_cell_is_a_plan_of_its_own() -> None:
    uplinks, loads = (0.01, 4.0, 60.0), (1.0, 8.0)
    sweep = sweep_from_planner(planner, LINKS["wifi"], uplinks, loads)
    for load, row in zip(loads, sweep["cells"], strict=True):
        for uplink, cell in zip(uplinks, row, strict=True):
            link = LinkSpec("wifi", uplink, uplink * 54.97 / 18.88, 283.17, 137.01, 132.86)
            best = planner(link, load)["ranking"][0]
            assert cell == {name: best[name] for name in cell}
    assert len({cell["setup"] for row in sweep["cells"] for cell in row}) > 1
    assert "server_load" not in sweep["assumptions"]


def test_steps_have_equal_ratios() -> None:
    assert steps("1:16:5", "--sweep") == pytest.approx((1.0, 2.0, 4.0, 8.0, 16.0))
    assert steps("3", "--sweep") == (3.0,)


@pytest.mark.parametrize(
    "text", ["", "a", "1:2", "1:2:1", "1:2:2.5", "2:1:5", "0:1:3", "-1:1:3", "nan:1:3", "1:inf:3"]
)
def test_steps_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--sweep must be"):
        steps(text, "--sweep")


def test_a_sweep_has_an_end() -> None:
    with pytest.raises(UsageError, match="up to 10000"):
        steps("1:2:10001", "--sweep")
    with pytest.raises(UsageError, match="--sweep has 40000 points"):
        sweep_from_planner(planner, LINKS["wifi"], [1.0] * 200, [1.0] * 200)


def test_the_picture_names_what_is_best_somewhere() -> None:
    sweep = sweep_from_planner(planner, LINKS["wifi"], (0.01, 4.0, 60.0), (1.0, 8.0))
    drawn = sweep_picture(sweep)
    # Ticks are numbers: an SVG draws no formulas.
    assert "mathdefault" not in drawn.svg
    assert "mobile-only" in drawn.svg
    assert "modelled" in drawn.svg
    assert sweep_picture(sweep).svg == drawn.svg
    with pytest.raises(ReportError, match="at least two bandwidths"):
        sweep_picture(sweep_from_planner(planner, LINKS["wifi"], (0.5,), (1.0, 8.0)))
