import json
from pathlib import Path

import pytest

from bottlekit.errors import UnknownNameError
from bottlekit.planning import LINKS, link_from_name
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
