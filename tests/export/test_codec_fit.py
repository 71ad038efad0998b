"""Choosing a codec: the smallest that is accurate enough, and no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bottlekit.device.codecs import CODEC_NAMES, codec_from_spec
from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.export.codec_fit import CodecRequest, fitted, learns, smallest
from bottlekit.export.sessions import Array
from bottlekit.specs import CodecSpec, to_dict

SHAPE = (2, 6, 6)
TRAINED_WITH = CodecSpec("jpeg", 8, 20)


def features(count: int, seed: int) -> tuple[Array, list[int]]:
    """Features of three classes, each brighter in another row, and the classes."""
    random = np.random.default_rng(seed)
    labels = [place % 3 for place in range(count)]
    values = random.exponential(0.2, (count, *SHAPE))
    for image, label in zip(values, labels, strict=True):
        image[:, 2 * label] += 0.15
    return values.astype(np.float32), labels


def tail(decoded: Array) -> Array:
    """Logits (n, 3): the mean of each class's row."""
    means: Array = decoded.mean(axis=(1, 3))[:, ::2]
    return means


def choose(request: CodecRequest, **changed: Any) -> Any:
    training, _ = features(60, 1)
    held_out, labels = features(90, 2)
    given: dict[str, Any] = {"training": training, "held_out": held_out, "labels": labels, "tail": tail} | changed
    return smallest(TRAINED_WITH, request, progress=lambda _: None, **given)


def accuracy(spec: CodecSpec, tables: Any) -> float:
    held_out, labels = features(90, 2)
    codec = codec_from_spec(to_dict(spec), SHAPE, tables)
    decoded = np.stack([codec.decode(codec.encode(feature)) for feature in held_out])
    return float(np.mean(tail(decoded).argmax(axis=1) == labels))


@pytest.mark.parametrize("drop", [0.0, 0.02, 0.1])
def test_the_chosen_codec_is_accurate_enough_and_no_smaller_one_was(drop: float) -> None:
    found = choose(CodecRequest("auto", max_accuracy_drop=drop))
    held_out, labels = features(90, 2)
    bound = float(np.mean(tail(held_out).argmax(axis=1) == labels)) - drop
    assert found.choice["accuracy_without_codec"] - drop == bound
    tried = found.choice["tried"]
    sizes = [one["mean_bytes"] for one in tried]
    assert sizes == sorted(sizes)
    assert [one["accuracy"] >= bound for one in tried] == [False] * (len(tried) - 1) + [True]
    assert accuracy(found.spec, found.tables) == tried[-1]["accuracy"]
    assert sizes[-1] == np.mean([len(found.codec.encode(feature)) for feature in held_out])
    assert {k: tried[-1][k] for k in to_dict(found.spec)} == to_dict(found.spec)
    assert found.choice["images"] == 90
    assert found.choice["measured"] > 80


def test_the_more_loss_is_allowed_the_smaller_it_gets() -> None:
    sizes = [
        choose(CodecRequest("auto", max_accuracy_drop=drop)).choice["tried"][-1]["mean_bytes"]
        for drop in (0.0, 0.05, 0.5)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_what_is_given_is_held_fixed() -> None:
    found = choose(CodecRequest("auto", bits=5, range="image", max_accuracy_drop=0.1))
    assert all((one["bits"], one["range"]) == (5, "image") for one in found.choice["tried"])


def test_an_accuracy_that_no_codec_reaches_is_told_with_the_best() -> None:
    held_out, _ = features(90, 2)
    first = tail(held_out).argmax(axis=1).tolist()

    def only_untouched(decoded: Array) -> Array:
        logits = tail(decoded)
        exact = np.array([any(np.array_equal(one, two) for two in held_out) for one in decoded])
        return np.where(exact[:, np.newaxis], logits, -logits)

    with pytest.raises(
        UsageError, match=r"no codec stays within --max-accuracy-drop 0.01 .* 1.0000: the best of \d+"
    ):
        choose(CodecRequest("auto"), labels=first, tail=only_untouched)


def test_codecs_that_this_feature_cannot_use_are_left_out() -> None:
    random = np.random.default_rng(0)
    wide = random.exponential(1, (4, 1, 1, 20000)).astype(np.float32)
    found = choose(
        CodecRequest("auto", bits=2, max_accuracy_drop=0.9),
        training=wide, held_out=wide, labels=[0, 0, 0, 0], tail=lambda decoded: decoded[:, 0, 0, :2],
    )  # fmt: skip
    assert "webp" not in found.spec.name


def test_a_request_changes_what_it_names_and_nothing_else() -> None:
    assert CodecRequest().spec(TRAINED_WITH) == TRAINED_WITH
    asked = CodecRequest("learned", bits=3, range="static")
    assert asked.spec(TRAINED_WITH) == CodecSpec("learned", 3, 20, "static")
    assert CodecRequest(quality=7).spec(TRAINED_WITH) == CodecSpec("jpeg", 8, 7)


def test_requests_that_do_not_fit_are_refused_at_once() -> None:
    with pytest.raises(UnknownNameError, match="codec 'gif' does not exist; there are: jpeg, .*zdict, auto"):
        CodecRequest("gif")
    settings: list[dict[str, Any]] = [{"bits": 0}, {"bits": 17}, {"quality": 0}, {"quality": 101}, {"range": "all"}]
    for wrong in settings:
        with pytest.raises(UsageError, match=f"--{next(iter(wrong))} must be"):
            CodecRequest("auto", **wrong)
    for drop in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="a fraction from 0 to below 1"):
            CodecRequest("auto", max_accuracy_drop=drop)


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_only_codecs_that_learn_need_training_images(name: str) -> None:
    assert learns(CodecSpec(name), SHAPE, {}) == (name in ("learned", "zdict"))
    assert learns(CodecSpec(name, range="static"), SHAPE, {})
    known = {"range": np.array([0, 1], np.float32)}
    assert learns(CodecSpec(name, range="static"), SHAPE, known) == (name in ("learned", "zdict"))


def test_a_range_that_is_settled_is_kept() -> None:
    training, _ = features(20, 1)
    known = {"range": np.array([0, 1.25], np.float32)}
    found = fitted(CodecSpec("learned", 3, range="static"), training, known)
    assert found.tables["range"].tolist() == [0, 1.25]
    assert fitted(CodecSpec("raw", 3, range="static"), training).tables["range"].tolist() != [0, 1.25]
