"""The papers' tables from one constant per block: counted on the residuals, and the page that shows them."""

import importlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlekit.errors import UsageError
from bottlekit.planning.links import LINKS
from bottlekit.planning.reproduction import (
    energy_cells,
    latency_cells,
    least_squares_constant,
    median_constant,
    median_residual,
    transfer_mj,
    within,
)

ROOT = Path(__file__).parents[2]
PAPER = json.loads((ROOT / "tests/data/paper_tables.json").read_text(encoding="utf-8"))
LATENCY = {
    paper: latency_cells(PAPER[paper]["latency_ms"], PAPER[paper]["offloaded_bytes"], LINKS)
    for paper in ("bottlenet", "butterfly")
}


def energies(paper: str, include_beta: bool) -> Any:
    table = PAPER[paper]
    return energy_cells(table["energy_mj"], table["offloaded_bytes"], LINKS, include_beta)


def test_butterflys_latencies_follow_from_one_constant_per_block() -> None:
    assert len(LATENCY["butterfly"]) == 48
    assert within(LATENCY["butterfly"], 0.03) >= 47


def test_bottlenets_latencies_follow_from_one_constant_per_block() -> None:
    assert len(LATENCY["bottlenet"]) == 48
    assert within(LATENCY["bottlenet"], 0.06) >= 42


def test_bottlenets_energies_follow_with_beta() -> None:
    cells = energies("bottlenet", include_beta=True)
    assert len(cells) == 48
    assert median_residual(cells) < 0.02


@pytest.mark.parametrize("network", sorted(LINKS))
def test_butterflys_cloud_only_energies_follow_without_beta_and_only_so_on_3g_and_4g(network: str) -> None:
    printed = PAPER["butterfly"]["cloud_only_energy_mj"][network]
    size = PAPER["butterfly"]["cloud_only_bytes"]
    assert transfer_mj(size, LINKS[network], include_beta=False) == pytest.approx(printed, rel=0.01)
    assert transfer_mj(size, LINKS[network], include_beta=True) != pytest.approx(printed, rel=0.01)


@pytest.mark.parametrize("network", sorted(LINKS))
def test_jointdnns_cloud_only_alexnet_follows_with_nothing_fitted(network: str) -> None:
    table = PAPER["jointdnn"]
    (cell,) = latency_cells(
        {network: [table["cloud_only_latency_ms"][network]]},
        [table["cloud_only_bytes"]],
        LINKS,
        lambda printed, transfer: table["cloud_compute_ms"],
    )
    assert abs(cell.residual) < 0.005
    mj = transfer_mj(table["cloud_only_bytes"], LINKS[network], include_beta=False)
    assert mj == pytest.approx(table["cloud_only_energy_mj"][network], rel=0.005)


@pytest.mark.parametrize("paper", sorted(LATENCY))
def test_medians_over_the_networks_are_the_constants_that_others_found(paper: str) -> None:
    table = PAPER[paper]
    cells = latency_cells(table["latency_ms"], table["offloaded_bytes"], LINKS, median_constant)
    constants = [cell.constant for cell in cells[:: len(LINKS)]]
    assert constants == pytest.approx(table["compute_ms"], abs=0.0051)


def test_butterflys_energies_cannot_follow_the_transfer_alone_costs_more() -> None:
    impossible = [cell for cell in energies("butterfly", include_beta=False) if cell.transfer > cell.printed]
    assert {(cell.block, cell.network) for cell in impossible} == {
        (1, "3g"),
        (1, "4g"),
        (1, "wifi"),
        (2, "wifi"),
    }
    assert all(cell.implied < 0 and not cell.follows for cell in impossible)
    for include_beta in (False, True):
        assert not any(cell.follows for cell in energies("butterfly", include_beta))


def test_no_other_constant_has_smaller_relative_residuals() -> None:
    printed, transfer = [3.1, 1.8, 1.6], [2.3, 0.4, 0.1]

    def cost(constant: float) -> float:
        return sum(((constant + t) / p - 1) ** 2 for p, t in zip(printed, transfer, strict=True))

    best = least_squares_constant(printed, transfer)
    assert cost(best) < min(cost(best - 1e-4), cost(best + 1e-4))


@given(st.lists(st.floats(1, 5000), min_size=1, max_size=20), st.floats(0.1, 50))
def test_tables_that_follow_the_model_are_found_to(sizes: list[float], constant: float) -> None:
    exact = {
        name: [cell.transfer + constant for cell in latency_cells({name: [1.0] * len(sizes)}, sizes, LINKS)]
        for name in LINKS
    }
    for fit in (least_squares_constant, median_constant):
        cells = latency_cells(exact, sizes, LINKS, fit)
        assert all(cell.follows for cell in cells)
        assert [cell.constant for cell in cells] == pytest.approx([constant] * len(cells), rel=1e-6)
        assert within(cells, 1e-6) == len(cells)


def test_one_value_off_by_more_than_its_rounding_is_noticed() -> None:
    table = {name: [cell.transfer + 2.0 for cell in latency_cells({name: [1.0]}, [100], LINKS)] for name in LINKS}
    assert all(cell.follows for cell in latency_cells(table, [100], LINKS))
    table["wifi"][0] += 0.11
    assert not any(cell.follows for cell in latency_cells(table, [100], LINKS))


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match=r"one value per block in every column; these have \[1, 2\]"):
        latency_cells({"3g": [1.0, 2.0], "4g": [1.0]}, [100, 100], LINKS)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark that writes the page."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("paper_tables")


def test_the_page_is_what_the_benchmark_writes(script: Any) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python benchmarks/paper_tables.py"


def test_the_page_lists_every_cell_outside_the_bounds(script: Any) -> None:
    listed = script.page().partition("## Cells that do not follow")[2]
    names = {"3g": "3G", "4g": "4G", "wifi": "Wi-Fi"}
    for title, cells, bound in (
        ("Butterfly, Table IV, latency", LATENCY["butterfly"], 0.03),
        ("BottleNet, Table 4, latency", LATENCY["bottlenet"], 0.06),
        ("BottleNet, Table 4, energy", energies("bottlenet", include_beta=True), 0.06),
    ):
        for cell in cells:
            row = f"| {title}, RB{cell.block}, {names[cell.network]} |"
            assert (row in listed) == (abs(cell.residual) > bound)


def test_the_results_hold_every_cell(script: Any) -> None:
    tables = script.results()["tables"]
    assert len(tables) == 6
    assert all(len(table["cells"]) == 48 for table in tables.values())


def test_the_emulated_blocks_are_a_whole_network(script: Any) -> None:
    emulation = importlib.import_module("emulation_page")
    blocks = script.resnet50_blocks()
    assert [block.number for block in blocks] == list(range(1, 17))
    # Every block moves work from the server to the device, and the fast clocks are faster.
    for before, after in itertools.pairwise(blocks):
        assert after.device_ms > before.device_ms
        assert after.server_ms < before.server_ms
    assert all(block.fast_device_ms < block.device_ms for block in blocks)
    device, _, server = script.emulations()
    layers = emulation.kernels(emulation.published_network("resnet50"), compiled=True)
    unit = emulation._unit(0, 1)
    assert blocks[0].device_ms < device.time_ms([*layers, unit[0]])
    assert blocks[0].server_ms < server.time_ms([*layers, unit[1]])
    # What comes behind the last block is the pooling and the classifier.
    assert server.time_ms(layers[-2:]) < blocks[15].server_ms < server.time_ms(layers[-4:])


def test_the_page_says_which_figures_are_emulated_and_how_far_they_are_off(script: Any) -> None:
    page = " ".join(script.page().split())
    for name in ("tx2", "gtx1080ti"):
        assert f"emulated {name}" in page
    assert page.count("leave-one-out error: median") == 2
    emulated = script.results()["emulated"]
    assert emulated["emulated"] is True
    assert emulated["device"]["leave_one_out"]["points"] == 9


def test_the_picture_says_what_is_emulated(script: Any) -> None:
    svg = script.blocks_picture([1.0] * 16, [2.0] * 16)
    assert svg.count("(emulated") == 2
    assert "leave-one-out error" in svg
    assert (script.PAGE.parent / script.PICTURE).exists()
