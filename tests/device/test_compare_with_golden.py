"""Engines are compared with the bundle's golden outputs; what differs too much is refused, and says so."""

import numpy as np
import pytest

from bottlekit.device.bundle import Bundle
from bottlekit.device.errors import EngineError, UnknownNameError
from bottlekit.device.golden import (
    CODES_DIFFERING,
    TOLERANCES,
    compare_with_golden,
    golden_input,
    run_in_batches,
    tolerance_from_name,
)
from bottlekit.device.runner import Runner, TensorInfo

FEATURE = (4, 8, 8)


class Recorded(Runner):
    """Gives recorded outputs for recorded inputs, `batch` at a time (None: any number)."""

    def __init__(self, inputs, outputs, batch=None):
        super().__init__("recorded")
        self.table = {one.tobytes(): out for one, out in zip(inputs, outputs)}
        self.batch = batch
        self.fed = []
        self.infos = (
            [TensorInfo("in", (batch,) + inputs.shape[1:], inputs.dtype)],
            [TensorInfo("out", (batch,) + outputs.shape[1:], outputs.dtype)],
        )

    def _activate(self):
        return self.infos

    def _deactivate(self):
        pass

    def _infer(self, feeds):
        self.fed.append(len(feeds["in"]))
        return {"out": np.stack([self.table[one.tobytes()] for one in feeds["in"]])}


@pytest.fixture
def bundle(fake_bundle):
    return Bundle.load(fake_bundle(feature=FEATURE, crop=16))


def compare(bundle, part, change=None, batch=None, judged_as="fp32"):
    """Compare a part whose outputs are the golden ones, changed by `change`."""
    golden = bundle.golden()
    name = {"head": "feature", "tail": "logits", "full": "full_logits", "baseline": "baseline_logits"}[part]
    outputs = golden[name].copy()
    if change is not None:
        outputs = change(outputs)
    with Recorded(golden_input(bundle, part), outputs, batch) as runner:
        return compare_with_golden(runner, bundle, part, TOLERANCES[judged_as])


@pytest.mark.parametrize("part", ["head", "tail", "full", "baseline"])
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_equal_outputs_are_compared_and_equal(bundle, part, batch):
    report = compare(bundle, part, batch=batch)
    assert (report["compared"], report["samples"]) == (True, 2)
    assert report["max_abs"] == report["mean_abs"] == 0
    if part == "head":
        assert (report["codes_differing"], report["codes_max_step"]) == (0, 0)
    else:
        assert report["top1_agreement"] == 1


def test_each_part_gets_its_own_input(bundle):
    golden = bundle.golden()
    for part, name in (("head", "image"), ("tail", "decoded"), ("full", "image"), ("baseline", "image")):
        np.testing.assert_array_equal(golden_input(bundle, part), golden[name])


@pytest.mark.parametrize("part", ["head", "tail", "full", "baseline"])
def test_rounding_is_allowed_and_reported(bundle, part):
    report = compare(bundle, part, lambda outputs: outputs + np.float32(2e-5))
    assert report["max_abs"] == pytest.approx(2e-5, rel=0.01)
    assert report["max_abs"] < report["tolerance"] < 2e-4


@pytest.mark.parametrize("part", ["tail", "full", "baseline"])
def test_a_difference_above_the_tolerance_is_refused(bundle, part):
    def one_logit(outputs):
        outputs[1, 0] += 1e-3
        return outputs

    with pytest.raises(EngineError, match=r"the {} of net .*differs by 0\.001".format(part)):
        compare(bundle, part, one_logit)


def test_a_feature_of_the_same_codes_and_another_scale_is_refused(bundle):
    with pytest.raises(EngineError, match="the head of net does not give the bundle's golden outputs"):
        compare(bundle, "head", lambda outputs: outputs * np.float32(2))


def test_another_code_is_refused_as_a_code(bundle):
    def two_steps(outputs):
        # In the middle of the range, so that minimum and maximum stay.
        position = np.unravel_index(np.argsort(np.abs(outputs[0]), axis=None)[0], outputs[0].shape)
        outputs[0][position] += 2.5 * (outputs[0].max() - outputs[0].min()) / 255
        return outputs

    with pytest.raises(EngineError, match=r"does not give .* codes: 1 of 512 differ, by up to [23] steps"):
        compare(bundle, "head", two_steps)


def test_too_many_codes_off_by_one_are_refused(bundle):
    def one_step(outputs):
        step = (outputs[0].max() - outputs[0].min()) / 255
        flat = outputs[0].reshape(-1)
        middle = np.argsort(np.abs(flat))[: int(2 * CODES_DIFFERING * outputs.size)]
        flat[middle] += step
        return outputs

    with pytest.raises(EngineError, match="codes: 10 of 512 differ, by up to 1 steps"):
        compare(bundle, "head", one_step)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["head", "tail"])
def test_values_that_are_no_numbers_are_refused(bundle, part, value):
    def spoil(outputs):
        outputs[1].reshape(-1)[3 % outputs[1].size] = value
        return outputs

    with pytest.raises(EngineError, match="NaN or infinity"):
        compare(bundle, part, spoil)


def test_another_shape_is_refused(bundle):
    with pytest.raises(EngineError, match=r"gives \(2, 4, 8, 7\), and the bundle says \(2, 4, 8, 8\)"):
        compare(bundle, "head", lambda outputs: outputs[..., :7])


@pytest.mark.parametrize(("batch", "calls"), [(None, [1] * 5), (1, [1] * 5), (2, [2, 2, 2]), (5, [5]), (8, [8])])
def test_batches_are_filled_and_cut_off(batch, calls):
    inputs = np.arange(5 * 3, dtype=np.float32).reshape(5, 3)
    with Recorded(inputs, inputs * 2, batch) as runner:
        np.testing.assert_array_equal(run_in_batches(runner, inputs), inputs * 2)
        assert runner.fed == calls


def half_rounded(outputs):
    return outputs.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("part", ["head", "tail", "full", "baseline"])
def test_what_fp16_rounds_is_too_much_for_fp32_and_passes_as_fp16(bundle, part):
    with pytest.raises(EngineError, match="golden (outputs|codes)|bundle's codes"):
        compare(bundle, part, lambda outputs: half_rounded(outputs) + np.float32(5e-4))
    report = compare(bundle, part, lambda outputs: half_rounded(outputs) + np.float32(5e-4), judged_as="fp16")
    assert report["judged_as"] == "fp16"
    assert 0 < report["mean_abs"] < report["mean_tolerance"] < report["tolerance"]


def test_an_fp16_engine_that_is_off_everywhere_is_refused(bundle):
    with pytest.raises(EngineError, match="on average"):
        compare(bundle, "tail", lambda outputs: outputs * np.float32(1.02), judged_as="fp16")
    # The scale of a feature is part of the payload, and the codes alone do not show it.
    with pytest.raises(EngineError, match="on average"):
        compare(bundle, "head", lambda outputs: outputs * np.float32(1.02), judged_as="fp16")


def test_what_int8_rounds_is_too_much_for_fp16_and_passes_as_int8(bundle):
    def rounded(outputs):
        step = np.abs(outputs).max() / np.float32(20)
        return np.round(outputs / step) * step

    for part in ("head", "full"):
        with pytest.raises(EngineError):
            compare(bundle, part, rounded, judged_as="fp16")
        report = compare(bundle, part, rounded, judged_as="int8")
        assert report["judged_as"] == "int8"
        assert 0 < report["mean_abs"] < report["mean_tolerance"]


@pytest.mark.parametrize(("part", "factor"), [("head", 1.15), ("tail", 0.85), ("full", -1)])
def test_an_int8_engine_that_is_off_everywhere_is_refused(bundle, part, factor):
    with pytest.raises(EngineError, match="golden"):
        compare(bundle, part, lambda outputs: outputs * np.float32(factor), judged_as="int8")


def test_an_fp16_engine_that_is_far_off_once_is_refused(bundle):
    def one_logit(outputs):
        outputs[0, 0] += 0.06 * np.abs(outputs).max()
        return outputs

    with pytest.raises(EngineError, match="differs by .* is allowed"):
        compare(bundle, "full", one_logit, judged_as="fp16")


@pytest.mark.parametrize(("steps", "fraction", "passes"), [(1, 0.2, True), (1, 0.4, False), (2, 0.05, False)])
def test_codes_of_an_fp16_engine_may_differ_often_by_one_step_and_hardly_by_two(bundle, steps, fraction, passes):
    def moved(outputs):
        for one in outputs:
            flat = one.reshape(-1)
            step = (flat.max() - flat.min()) / 255
            flat[np.argsort(np.abs(flat))[: int(fraction * flat.size)]] += np.float32(steps * step)
        return outputs

    if passes:
        report = compare(bundle, "head", moved, judged_as="fp16")
        assert (report["codes_differing"], report["codes_max_step"]) == (pytest.approx(fraction, abs=0.02), 1)
    else:
        with pytest.raises(EngineError, match="does not give the bundle's codes: .* by up to {}".format(steps)):
            compare(bundle, "head", moved, judged_as="fp16")


def test_many_other_classes_are_refused_although_the_logits_are_near(fake_bundle):
    bundle = Bundle.load(fake_bundle(feature=FEATURE, crop=16))
    golden = bundle.golden()
    logits = golden["logits"]
    nearly = np.repeat(logits.max(axis=1, keepdims=True), logits.shape[1], axis=1)
    nearly[:, 0] += np.float32(1e-3) * np.abs(nearly).max()
    golden["logits"] = nearly.astype(np.float32)
    bundle.golden = lambda: golden
    changed = golden["logits"].copy()
    changed[:, 1] += np.float32(2e-3) * np.abs(changed).max()
    with Recorded(golden["decoded"], changed) as runner:
        with pytest.raises(EngineError, match="golden classes: 2 of 2 differ"):
            compare_with_golden(runner, bundle, "tail", TOLERANCES["fp16"])


def test_tolerances_have_names():
    assert [tolerance_from_name(name).name for name in TOLERANCES] == list(TOLERANCES)
    with pytest.raises(UnknownNameError, match="'fp8' does not exist; there are: fp32, fp16"):
        tolerance_from_name("fp8")
