from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.training.data import DATA_NAMES
from bottlekit.training.recipe import (
    PHASES,
    RECIPE_OF_DATA,
    Recipe,
    default_recipe_name,
    learning_rate_at,
    recipe_from_name,
    recipe_names,
)

PLAIN = Recipe(epochs=10, batch_size=4, learning_rate=1.0)


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("phase", PHASES)
def test_every_recipe_that_comes_along_can_be_read(name: str, phase: str) -> None:
    recipe = recipe_from_name(name, phase)  # type: ignore[arg-type]
    assert recipe.name == name
    assert recipe.epochs > 0


def test_every_data_set_has_a_recipe() -> None:
    assert set(RECIPE_OF_DATA) == set(DATA_NAMES)
    assert set(RECIPE_OF_DATA.values()) <= set(recipe_names())
    assert default_recipe_name("cifar10:/somewhere") == "cifar"


def test_miniimagenet_is_trained_for_the_papers_90_epochs() -> None:
    assert recipe_from_name("miniimagenet", "backbone").epochs == 90


def test_the_hybrid_papers_recipe_lowers_the_rate_three_times() -> None:
    recipe = recipe_from_name("hybrid_cifar", "backbone")
    assert (recipe.epochs, recipe.batch_size, recipe.weight_decay, recipe.momentum) == (150, 128, 1e-4, 0.9)
    rates = [learning_rate_at(recipe, epoch * 10, 10) for epoch in range(150)]
    expected = [0.1] * 80 + [0.01] * 40 + [0.001] * 25 + [0.0001] * 5
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("milestones", [(0, 5), (8, 4), (4, 4), ("a",), 5])
def test_milestones_rise(milestones: object) -> None:
    with pytest.raises(UsageError, match="milestones must be epochs above 0 that rise"):
        dataclasses.replace(PLAIN, milestones=milestones)  # type: ignore[arg-type]


def test_what_is_asked_for_replaces_the_recipe() -> None:
    recipe = recipe_from_name("digits", "backbone", epochs=1, learning_rate=0.5, batch_size=None)
    assert (recipe.epochs, recipe.learning_rate) == (1, 0.5)
    assert recipe.batch_size == recipe_from_name("digits", "backbone").batch_size


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[backbone]\nepochs = 2\nbatch_size = 8\nlearning_rate = 0.1\n")
    assert recipe_from_name(str(path), "backbone") == Recipe(2, 8, 0.1, name=str(path))
    with pytest.raises(UsageError, match=r"mine\.toml has no table \[bottleneck\]"):
        recipe_from_name(str(path), "bottleneck")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[backbone\n", "is no valid TOML"),
        ("[backbones]\n", r"has \['backbones'\]; its tables are"),
        ("[backbone]\nepochs=1\nbatch_size=1\n", r"missing fields \['learning_rate'\]"),
        ("[backbone]\nepochs=1\nbatch_size=1\nlearning_rate=1.0\nlr=1.0\n", r"unknown fields \['lr'\]"),
        ("[backbone]\nepochs=1\nbatch_size=1\nlearning_rate=1.0\nname='x'\n", r"unknown fields \['name'\]"),
        ("[backbone]\nepochs=1.5\nbatch_size=1\nlearning_rate=1.0\n", "--epochs must be a whole number"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason):
        recipe_from_name(str(path), "backbone")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the recipe .*none\.toml"):
        recipe_from_name(str(tmp_path / "none.toml"), "backbone")


def test_an_unknown_recipe_lists_those_that_exist() -> None:
    with pytest.raises(UnknownNameError, match="cifar, digits, fractals, hybrid_cifar, miniimagenet"):
        recipe_from_name("imagenet", "backbone")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("epochs", -1, "--epochs must be"),
        ("epochs", True, "--epochs must be"),
        ("batch_size", 0, "--batch-size must be"),
        ("learning_rate", 0.0, "--lr must be a positive number"),
        ("learning_rate", float("nan"), "--lr must be a positive number"),
        ("learning_rate", float("inf"), "--lr must be a positive number"),
        ("momentum", 1.0, "momentum must be below 1"),
        ("label_smoothing", -0.1, "label_smoothing must be"),
        ("weight_decay", float("nan"), "weight_decay must be"),
        ("optimizer", "adam", "optimizer 'adam' does not exist; there are: sgd, adamw"),
        ("schedule", "linear", "schedule 'linear' does not exist"),
        ("amp", "yes", "amp must be true or false"),
    ],
)
def test_values_that_do_not_fit_are_refused(field: str, value: object, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        dataclasses.replace(PLAIN, **{field: value})  # type: ignore[arg-type]


def test_cosine_falls_from_the_learning_rate_to_zero() -> None:
    rates = [learning_rate_at(PLAIN, step, 5) for step in range(50)]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert rates[25] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.002


def test_warm_up_rises_to_the_learning_rate_and_never_starts_at_zero() -> None:
    recipe = dataclasses.replace(PLAIN, warmup_epochs=2)
    rates = [learning_rate_at(recipe, step, 5) for step in range(12)]
    assert 0 < rates[0] < 0.2
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == 1.0
    assert rates[11] < 1.0


def test_steps_and_constant() -> None:
    recipe = dataclasses.replace(PLAIN, schedule="step", step_epochs=3, step_factor=0.1)
    rates = [learning_rate_at(recipe, 2 * epoch, 2) for epoch in range(7)]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01])
    assert learning_rate_at(dataclasses.replace(PLAIN, schedule="constant"), 49, 5) == 1.0
