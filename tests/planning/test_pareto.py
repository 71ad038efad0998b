import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bottlekit.errors import PlanError, UsageError
from bottlekit.planning import LINKS, Candidate, Choice, candidates_from_profile, rank
from bottlekit.planning.pareto import known_criteria, pareto_front

PROFILE = json.loads((Path(__file__).parents[1] / "data/profile.json").read_text(encoding="utf-8"))


def candidate(
    name: str, size: float, ms: float, accuracy: float | None, macs: float | None, **more: Any
) -> Candidate:
    return Candidate(
        setup="collaborative",
        split=name,
        split_index=1,
        bundle=name,
        network="split",
        accuracy=accuracy,
        payload_bytes=size,
        offloaded_bytes=size,
        device_ms=ms,
        server_ms=1.0,
        device_macs=macs,
        **more,
    )


def front(*candidates: Candidate) -> set[str]:
    return {choice.candidate.label for choice in pareto_front(rank(candidates, LINKS["wifi"]))}


def test_what_another_beats_in_everything_is_left_out() -> None:
    good = candidate("good", 100.0, 2.0, 0.9, 1e6)
    worse = candidate("worse", 200.0, 3.0, 0.8, 2e6)
    assert front(good, worse) == {"good"}


@pytest.mark.parametrize(
    "change", [{"payload_bytes": 50.0, "offloaded_bytes": 50.0}, {"device_macs": 1.0}, {"accuracy": 0.99}]
)
def test_whoever_is_best_in_one_thing_stays(change: dict[str, Any]) -> None:
    good = candidate("good", 100.0, 2.0, 0.9, 1e6)
    other = dataclasses.replace(candidate("other", 200.0, 3.0, 0.8, 2e6), **change)
    assert front(good, other) == {"good", "other"}


def test_equals_stay_both() -> None:
    one = candidate("one", 100.0, 2.0, 0.9, 1e6)
    assert front(one, dataclasses.replace(one, bundle="two")) == {"one", "two"}


def test_what_is_not_known_of_all_is_not_compared() -> None:
    choices = rank(candidates_from_profile(PROFILE), LINKS["wifi"])
    assert known_criteria(choices) == ("offloaded_bytes", "accuracy", "latency_ms", "energy_mj")
    unknown = candidate("unknown", 200.0, 3.0, None, None)
    assert front(candidate("good", 100.0, 2.0, 0.9, 1e6), unknown) == {"good"}


# Weights and what fits


def costs(choice: Choice) -> tuple[float, float]:
    return choice.latency_ms, choice.energy_mj


def test_the_ends_of_the_weight_are_the_objectives() -> None:
    candidates = candidates_from_profile(PROFILE)
    for link in LINKS.values():
        for weight, objective in ((0.0, "latency"), (1.0, "energy")):
            weighted = rank(candidates, link, energy_weight=weight)
            assert costs(weighted[0]) == costs(rank(candidates, link, objective)[0])  # type: ignore[arg-type]


def test_a_weight_sums_multiples_of_the_least() -> None:
    # Twice the least latency and the least energy, or the other way round: at a third, latency counts twice.
    quick = candidate("quick", 0.0, 1.0, 0.9, 1.0, device_power_mw=2_000.0)
    thrifty = candidate("thrifty", 0.0, 3.0, 0.9, 1.0, device_power_mw=500.0)
    choices = rank([quick, thrifty], LINKS["wifi"], energy_weight=1 / 3)
    assert [choice.candidate.label for choice in choices] == ["quick", "thrifty"]
    assert rank([quick, thrifty], LINKS["wifi"], energy_weight=0.9)[0].candidate.label == "thrifty"


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_is_a_fraction(weight: float) -> None:
    with pytest.raises(UsageError, match="--energy-weight must be a fraction"):
        rank([candidate("a", 1.0, 1.0, 0.9, 1.0)], LINKS["wifi"], energy_weight=weight)


def test_what_does_not_fit_into_the_device_is_left_out() -> None:
    small = candidate("small", 9.0, 9.0, 0.9, 1.0, device_bytes=2e6)
    large = candidate("large", 1.0, 1.0, 0.9, 1.0, device_bytes=9e6)
    assert [c.candidate.label for c in rank([small, large], LINKS["wifi"], max_device_bytes=3e6)] == ["small"]
    with pytest.raises(PlanError, match=r"--max-device-mib 1: the smallest is small with 1.91 MiB"):
        rank([small, large], LINKS["wifi"], max_device_bytes=2**20)
    with pytest.raises(PlanError, match="cannot be checked for unknown: the profile does not say how large"):
        rank([small, candidate("unknown", 1.0, 1.0, 0.9, 1.0)], LINKS["wifi"], max_device_bytes=3e6)
    with pytest.raises(UsageError, match="--max-device-mib must be 0 or more"):
        rank([small], LINKS["wifi"], max_device_bytes=-1.0)


def test_a_tail_counts_for_what_uses_the_radio() -> None:
    candidates = candidates_from_profile(PROFILE)
    plain = {c.candidate.label: c.energy_mj for c in rank(candidates, LINKS["3g"])}
    for choice in rank(candidates, LINKS["3g"], radio_tail_mj=100.0):
        more = 0.0 if choice.candidate.setup == "mobile-only" else 100.0
        assert choice.energy_mj == pytest.approx(plain[choice.candidate.label] + more)
