import json
from pathlib import Path
from typing import Any

import pytest

from bottlekit.planning import LINKS, plan_from_profile
from bottlekit.specs import LinkSpec, from_dict

PROFILE = json.loads((Path(__file__).parents[1] / "data" / "profile.json").read_text(encoding="utf-8"))


def test_the_plan_says_what_it_was_made_from() -> None:
    plan = plan_from_profile(PROFILE, LINKS["3g"], "energy", profile_sha256="ab" * 32, device_load=2.0)
    assert (plan["format"], plan["version"], plan["objective"]) == ("bottlekit-plan", 1, "energy")
    assert plan["profile_sha256"] == "ab" * 32
    assert from_dict(LinkSpec, plan["link"], "the plan") == LINKS["3g"]
    assert plan["assumptions"]["device_load"] == 2.0
    assert plan["assumptions"]["server_times"] == "the device's profile"
    json.dumps(plan, allow_nan=False)


def test_every_candidate_is_ranked_or_excluded() -> None:
    plan = plan_from_profile(PROFILE, LINKS["3g"], max_bytes=500)
    ranked = {line["bundle"] or line["setup"] for line in plan["ranking"]}
    assert ranked == {"net-rb4", "net-rb8", "mobile-only"}
    assert plan["excluded"] == ["cloud-only", "net-rb1"]


@pytest.mark.parametrize(("framed", "word"), [(None, "not counted"), ({"request": 564, "overhead": 64}, "counted")])
def test_the_plan_says_whether_framing_counts(framed: Any, word: str) -> None:
    entries = [{**entry, "framed_bytes": framed} for entry in PROFILE["bundles"]]
    plan = plan_from_profile({**PROFILE, "bundles": entries}, LINKS["3g"])
    assert plan["assumptions"]["framing"] == word


def test_a_fast_server_pulls_the_split_towards_the_input() -> None:
    fast = json.loads(json.dumps(PROFILE))
    for entry in fast["bundles"]:
        for phase in entry["phases"].values():
            phase["summary"]["p50_ms"] /= 100.0
    plan = plan_from_profile(PROFILE, LINKS["4g"], server_profile=fast, server_profile_sha256="cd" * 32)
    assert plan["ranking"][0]["split"] == "rb1"
    assert plan["assumptions"]["server_times"] == "the server's profile"
    assert plan_from_profile(PROFILE, LINKS["4g"])["ranking"][0]["setup"] == "mobile-only"
