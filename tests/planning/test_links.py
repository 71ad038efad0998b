import json
from pathlib import Path

import pytest

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.planning import LINKS, link_from_name
from bottlekit.planning.energy import downlink_power_mw, uplink_power_mw
from bottlekit.planning.links import radio_tail_mj
from bottlekit.specs import to_dict

PAPER = json.loads((Path(__file__).parents[1] / "data" / "paper_tables.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(PAPER["wireless"]))
def test_a_link_has_the_numbers_of_the_papers(name: str) -> None:
    link = to_dict(LINKS[name])
    assert {field: link[field] for field in PAPER["wireless"][name]} == PAPER["wireless"][name]
    assert link["rtt_ms"] == 0.0


def test_the_papers_networks_are_all_there() -> None:
    assert set(LINKS) == set(PAPER["wireless"])
    assert all(link.name == name for name, link in LINKS.items())


def test_names_are_found_in_any_case() -> None:
    assert link_from_name("3G") is LINKS["3g"]
    assert link_from_name("WiFi") is LINKS["wifi"]


def test_an_unknown_link_is_refused_with_the_list() -> None:
    with pytest.raises(UnknownNameError) as caught:
        link_from_name("6g")
    assert "'6g' does not exist; there are: 3g, 4g, wifi" in str(caught.value)
    assert "--uplink-mbps" in str(caught.value)


def test_a_5g_radio_needs_what_nobody_published() -> None:
    link = link_from_name("5g-mmwave", {"uplink_mbps": 100.0})
    assert (link.downlink_mbps, link.beta_mw) == (100.0, 5664.0)
    assert uplink_power_mw(link) == pytest.approx(8.88 * 100 + 5664)
    assert downlink_power_mw(link) == pytest.approx(1.73 * 100 + 5237)
    with pytest.raises(UsageError, match="no typical rate: it needs --uplink-mbps as well"):
        link_from_name("5g-mmwave")
    with pytest.raises(UsageError, match="needs --uplink-mbps, --beta as well"):
        link_from_name("5g-low")


def test_a_tail_is_seconds_times_power() -> None:
    tails = [radio_tail_mj(LINKS[name]) for name in ("3g", "4g", "wifi")]
    assert tails == pytest.approx([6512.4, 12296.0, 28.56])
    assert radio_tail_mj(link_from_name("wifi", {"rtt_ms": 3.0})) == tails[2]
    with pytest.raises(UsageError, match="tail of the radio of the link 5g-mmwave is not known"):
        radio_tail_mj(link_from_name("5g-mmwave", {"uplink_mbps": 100.0}))
