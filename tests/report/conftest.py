"""A profile and plans as the verbs write them, small and made up, for the tests of the report.

Latencies, bytes and accuracies are invented; the plans are the planner's own for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bottlekit.planning import link_from_name, plan_from_profile
from bottlekit.report.examples import Example, examples_picture
from bottlekit.report.html import DemoReport, ReportFile
from bottlekit.report.pictures import accuracy_picture, bytes_picture, phases_picture, terms_picture
from bottlekit.report.setups import setups_table

PHASES_MS = {"head": 1.1, "encode": 0.06, "decode": 0.04, "tail": 3.9, "full": 5.0, "baseline": 5.2}


def phase(median_ms: float, seed: int) -> dict[str, Any]:
    """One timed phase: 200 samples around `median_ms`, with a tail to the right."""
    samples = median_ms * np.random.default_rng(seed).lognormal(0.0, 0.08, 200)
    quantiles = {f"p{p}_ms": float(np.percentile(samples, p)) for p in (50, 90, 95)}
    summary = {
        "count": 200,
        "mean_ms": float(samples.mean()),
        "min_ms": float(samples.min()),
        "max_ms": float(samples.max()),
        **quantiles,
        "p99_ms": None,
    }
    golden = {"compared": True, "max_abs": 1e-6}
    return {
        "origin": "measured",
        "engine_sha256": f"{seed:064x}",
        "golden": golden,
        "samples_ms": samples.tolist(),
        "summary": summary,
    }


def entry(index: int) -> dict[str, Any]:
    """The profile's entry of the split behind residual block `index`."""
    split = f"rb{index}"
    mean = 420.0 / (1 + 0.2 * (index - 1))
    return {
        "bundle": {
            "name": f"resnet18-{split}",
            "sha256": f"{index:064x}",
            "split": split,
            "split_index": index,
            "backbone": "resnet18",
        },
        "accuracy": {"data": "digits", "images": 360, "baseline": 0.986, "split": 0.972 + 0.001 * index},
        "payload_bytes": {"mean": mean, "p50": mean - 4, "p99": mean + 40, "max": mean + 60, "images": 360},
        "input_jpeg_bytes": {"mean": 1460.0, "quality": 90, "accuracy": 0.983},
        "framed_bytes": {"request": mean + 46, "overhead": 46},
        "phases": {
            name: phase(ms * (1 + 0.1 * index), 10 * index + n) for n, (name, ms) in enumerate(PHASES_MS.items())
        },
    }


def example_profile(splits: int = 2) -> dict[str, Any]:
    """A profile of a fleet with that many splits."""
    return {
        "format": "bottlekit-profile",
        "version": 1,
        "bottlekit": "0.1.0",
        "command": "bottlekit bench fleet --target cpu",
        "target": "cpu",
        "environment": {"machine": "x86_64", "cpu": "two cores", "python": "3.11.7"},
        "bundles": [entry(index) for index in range(1, splits + 1)],
    }


def example_plans(profile: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The planner's own plans for the three networks of the papers."""
    return {name: plan_from_profile(profile, link_from_name(name)) for name in ("3g", "4g", "wifi")}


def example_images(count: int = 6) -> list[Example]:
    """Images that show nothing, the last one predicted wrongly."""
    random = np.random.default_rng(7)
    return [
        Example(
            image=random.integers(0, 256, (64, 64, 3), dtype=np.uint8),
            sent=random.integers(0, 256, (16, 32), dtype=np.uint8),
            received=random.integers(0, 256, (16, 32), dtype=np.uint8),
            payload_bytes=400 + number,
            predicted=str(number),
            truth=str(number if number < count - 1 else number + 1),
        )
        for number in range(count)
    ]


def example_report(splits: int = 2) -> DemoReport:
    """A report with every section filled."""
    profile = example_profile(splits)
    plans = example_plans(profile)
    measured = {("collaborative", "rb1"): {"framed_bytes": 409.0, "loopback_ms": 5.6}}
    return DemoReport(
        title="bottlekit demo: resnet18 on digits",
        summary="The split at rb1 sends 360 bytes instead of 1,460 and loses 1.3 points of accuracy.",
        command="bottlekit demo",
        environment={"bottlekit": "0.1.0", "python": "3.11.7", "onnxruntime": "1.31.1", "cpu": "two cores"},
        table=setups_table(profile, plans, measured),
        pictures=[
            terms_picture(profile, plans, "latency"),
            terms_picture(profile, plans, "energy"),
            bytes_picture(profile),
            accuracy_picture(profile),
            phases_picture(profile),
            examples_picture(example_images()),
        ],
        plans=plans,
        files=[ReportFile("profile.json", "what bench measured", 123456, "ab" * 32)],
        steps=[
            "bottlekit train --data digits -o digits.safetensors",
            "bottlekit export digits.safetensors",
        ],
        profile=profile,
    )


@pytest.fixture
def profile() -> dict[str, Any]:
    return example_profile()


@pytest.fixture
def plans(profile: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return example_plans(profile)


@pytest.fixture
def images() -> list[Example]:
    return example_images()


@pytest.fixture(scope="session")
def report() -> DemoReport:
    return example_report()
