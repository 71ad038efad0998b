"""The decisions of a search, judged with hundreds of invented tables of accuracies."""

from __future__ import annotations

import dataclasses
import random

import pytest

from bottlekit.training.search.decisions import Goal, Mode, Trial, Verdict, hopeless, next_step, rungs
from bottlekit.training.search.grid import Reduction

WIDTHS = tuple(Reduction(channels, 2) for channels in (1, 2, 3, 5, 8, 10))
Table = dict[Reduction, list[float]]


def diminishing(seed: int) -> Table:
    """Accuracy of each width after each of three rungs. Wider is mostly, not always, better; returns diminish."""
    dice = random.Random(seed)
    table = {}
    final = dice.uniform(0.3, 0.9)
    for width in WIDTHS:
        final = min(0.999, final + dice.uniform(-0.05, 0.15))
        first_gain = dice.uniform(0, 0.2)
        second_gain = dice.uniform(0, first_gain)
        table[width] = [final - first_gain - second_gain, final - second_gain, final]
    return table


def run(table: Table, goal: Goal) -> tuple[Verdict, list[Trial]]:
    """Search with a trainer that looks its results up."""
    results: dict[Trial, float | None] = {}
    trained = []
    while isinstance(step := next_step("rb1", WIDTHS, goal, results), Trial):
        trained.append(step)
        assert step not in results
        results[step] = table[step.reduction][-1 if step.epochs == goal.epochs else step.rung]
    return step, trained


def smallest(table: Table, least: float) -> Reduction | None:
    """The definition: of all widths that are accurate enough the smallest."""
    return next((width for width in WIDTHS if table[width][-1] >= least), None)


@pytest.mark.parametrize("mode", ["exhaustive", "linear", "fast"])
def test_every_mode_finds_the_smallest_width(mode: Mode) -> None:
    for seed in range(400):
        check_smallest(mode, seed)


def check_smallest(mode: Mode, seed: int) -> None:
    table = diminishing(seed)
    least = random.Random(-seed - 1).uniform(0.5, 1.0)
    verdict, trained = run(table, Goal(least, 360, 8, mode))
    width = smallest(table, least)
    assert (verdict.found.reduction if verdict.found else None) == width
    visited = WIDTHS.index(width) + 1 if width else len(WIDTHS)
    assert verdict.linear == visited
    assert verdict.spent == sum(trial.epochs for trial in trained) / 8
    if mode == "exhaustive":
        assert len(trained) == len(WIDTHS)
    elif mode == "linear":
        assert (len(trained), verdict.saved) == (visited, 0)
    else:
        assert -visited / 2 <= verdict.saved < visited
        assert {trial.reduction for trial in trained} == set(WIDTHS[:visited])
    assert verdict.best is not None


def test_fast_saves_and_noise_below_chance_changes_nothing() -> None:
    saved = linear = 0.0
    for seed in range(300):
        table = diminishing(seed)
        goal = Goal(0.9, 360, 8, "fast")
        dice = random.Random(seed)
        noisy = {
            width: [early - dice.uniform(0, goal.chance() / 3) for early in curve[:-1]] + curve[-1:]
            for width, curve in table.items()
        }
        verdict, _ = run(noisy, goal)
        assert (verdict.found.reduction if verdict.found else None) == smallest(table, 0.9)
        saved += verdict.saved
        linear += verdict.linear
    assert saved > 0.1 * linear


def test_fast_needs_diminishing_returns() -> None:
    """What it relies on is really relied on: a late leap is missed."""
    table = {width: [0.2, 0.2, 0.99] for width in WIDTHS}
    assert run(table, Goal(0.9, 360, 8))[0].found is not None
    assert run(table, Goal(0.9, 360, 8, "fast"))[0].found is None


def test_a_fast_training_starts_from_the_one_before() -> None:
    table = {width: [0.1, 0.1, 0.1] for width in WIDTHS}
    _, trained = run(table, Goal(0.9, 360, 8, "fast"))
    assert [trial.start for trial in trained] == [None, *trained[:-1]]
    assert [trial.rung for trial in trained] == [0, 1] * len(WIDTHS)
    assert all(trial.start is None for trial in run(table, Goal(0.9, 360, 8))[1])


@pytest.mark.parametrize("epochs", range(1, 100))
def test_rungs_are_a_whole_training(epochs: int) -> None:
    steps = rungs(epochs)
    assert sum(steps) == epochs
    assert min(steps) >= 1
    assert len(steps) == min(epochs, 3)
    if epochs % 4 == 0:
        assert steps == (epochs // 4, epochs // 4, epochs // 2)


def test_a_search_goes_on_from_any_subset_of_its_results() -> None:
    goal = Goal(0.9, 360, 8, "fast")
    table = diminishing(11)
    _, trained = run(table, goal)
    for done in range(len(trained)):
        kept = {trial: table[trial.reduction][trial.rung] for trial in trained[:done]}
        assert next_step("rb1", WIDTHS, goal, kept) == trained[done]


def test_what_fast_trains_to_the_end_is_what_linear_trains() -> None:
    table = {width: [0.5, 0.8, 0.89] for width in WIDTHS}
    _, fast = run(table, Goal(0.9, 360, 8, "fast"))
    _, linear = run(table, Goal(0.9, 360, 8))
    assert [trial for trial in fast if trial.epochs == 8] == linear
    assert [trial.epochs for trial in fast] == [2, 2, 8] * len(WIDTHS)


def test_a_training_that_diverged_is_passed_over() -> None:
    narrow, wide = WIDTHS[:2]
    goal = Goal(0.9, 360, 4, "fast")
    first = Trial("rb1", narrow, 1)
    second = next_step("rb1", (narrow, wide), goal, {first: None})
    assert second == Trial("rb1", wide, 1)  # and starts from no weights, as there are none
    verdict = next_step("rb1", (narrow, wide), goal, {first: None, second: None})
    assert isinstance(verdict, Verdict)
    assert (verdict.found, verdict.best, verdict.linear) == (None, None, 2)
    assert verdict.spent == 0.5


def test_what_nothing_meets_names_the_best() -> None:
    table = {width: [0.1, 0.2, 0.3 + 0.01 * place] for place, width in enumerate(WIDTHS)}
    verdict, _ = run(table, Goal(0.9, 360, 4))
    assert verdict.found is None
    assert verdict.best is not None
    assert verdict.best.reduction == WIDTHS[-1]


def test_accuracies_that_are_equal_but_for_rounding_meet_the_goal() -> None:
    assert Goal(0.98 - 0.02, 360, 4).met(0.96)
    assert not Goal(0.96, 360, 4).met(0.96 - 1 / 360)
    assert not Goal(0.0, 360, 4).met(None)


def test_growth_that_would_suffice_is_given_its_chance() -> None:
    goal = dataclasses.replace(Goal(0.9, 10**9, 8, "fast"))
    assert not hopeless([0.5], (2, 2, 4), goal)
    assert not hopeless([0.7, 0.8], (2, 2, 4), goal)
    assert hopeless([0.71, 0.8], (2, 2, 4), goal)
    assert hopeless([0.8, 0.7], (2, 2, 4), goal)
    assert hopeless([None], (2, 2, 4), goal)


def test_a_trial_survives_json() -> None:
    first = Trial("rb2", Reduction(1), 1)
    second = Trial("rb2", Reduction(2, 2), 1, 0, first)
    assert Trial.from_dict(second.to_dict()) == second
