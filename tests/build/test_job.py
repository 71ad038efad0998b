"""What can be asked of a build, and what is refused with the choice that exists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bottlekit.build.build import jobs_for
from bottlekit.build.job import max_batch_for, workspace_for
from bottlekit.build.rtx import profiles_of
from bottlekit.device.bundle import Bundle
from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.targets.loader import TargetSpec, target_from_name

Tiny = Callable[..., Bundle]
CPU, ADA = target_from_name("cpu"), target_from_name("rtx-ada")


def test_a_batch_is_limited_where_the_compiler_asks(tiny_bundle: Tiny) -> None:
    assert max_batch_for(tiny_bundle(), ADA, None) == 8
    assert max_batch_for(tiny_bundle(), ADA, 3) == 3
    assert max_batch_for(tiny_bundle(), CPU, None) is None
    fixed = tiny_bundle(dynamic_batch=False)
    assert max_batch_for(fixed, ADA, None) == max_batch_for(fixed, ADA, 1) == 1


def test_a_batch_that_cannot_be_is_refused(tiny_bundle: Tiny) -> None:
    with pytest.raises(UsageError, match="--max-batch must be at least 1, not 0"):
        max_batch_for(tiny_bundle(), ADA, 0)
    with pytest.raises(UsageError, match="--max-batch is not for cpu"):
        max_batch_for(tiny_bundle(), CPU, 4)
    with pytest.raises(UsageError, match="exported for one image at a time"):
        max_batch_for(tiny_bundle(dynamic_batch=False), ADA, 4)


def test_a_workspace_is_the_targets_unless_told(tiny_bundle: Tiny) -> None:
    (job,) = jobs_for(tiny_bundle(), target_from_name("tx2"), Path("out"), ["head"], None, None)
    assert job.workspace_bytes == 256 << 20
    (job,) = jobs_for(tiny_bundle(), target_from_name("tx2"), Path("out"), ["head"], None, None, 128)
    assert job.workspace_bytes == 128 << 20
    (job,) = jobs_for(tiny_bundle(), CPU, Path("out"), ["head"], None, None)
    assert job.workspace_bytes == 0


@pytest.mark.parametrize(
    ("target", "asked", "words"),
    [
        (CPU, 64, "--workspace-mb is not for cpu"),
        (ADA, 0, "--workspace-mb must be from 1 to 1048576, not 0"),
        (ADA, -1, "not -1"),
        (ADA, (1 << 20) + 1, "not 1048577"),
    ],
)
def test_a_workspace_that_cannot_be_is_refused(target: TargetSpec, asked: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        workspace_for(target, asked)


def test_there_is_a_job_for_every_part(tiny_bundle: Tiny) -> None:
    jobs = jobs_for(tiny_bundle(), ADA, Path("out"), None, None, None)
    assert [job.part for job in jobs] == ["head", "tail", "full", "baseline"]
    assert [job.engine_path.name for job in jobs][:2] == [
        "tiny-rb1-head-rtx-ada.plan",
        "tiny-rb1-tail-rtx-ada.plan",
    ]
    assert [job.part for job in jobs_for(tiny_bundle(), ADA, Path("out"), ["tail", "head"], None, None)] == [
        "head",
        "tail",
    ]


def test_a_part_that_is_not_there_is_refused(tiny_bundle: Tiny) -> None:
    with pytest.raises(
        UnknownNameError, match="part 'middle' does not exist; there are: head, tail, full, baseline"
    ):
        jobs_for(tiny_bundle(), ADA, Path("out"), ["middle"], None, None)

    def without_baseline(folder: Path) -> None:
        import json

        (folder / "baseline.onnx").unlink()
        manifest = json.loads((folder / "bundle.json").read_text())
        del manifest["files"]["baseline.onnx"]
        (folder / "bundle.json").write_text(json.dumps(manifest))

    with pytest.raises(UsageError, match="the bundle tiny-rb1 has no baseline; it has: head, tail, full"):
        jobs_for(tiny_bundle(without_baseline), ADA, Path("out"), ["baseline"], None, None)


def test_a_profile_spans_one_image_to_the_largest_batch(tiny_bundle: Tiny) -> None:
    head, tail, full, _ = jobs_for(tiny_bundle(), ADA, Path("out"), None, None, 4)
    assert profiles_of(head) == profiles_of(full) == {"image": ((1, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))}
    assert profiles_of(tail) == {"feature": ((1, 2, 4, 4), (1, 2, 4, 4), (4, 2, 4, 4))}
    (fixed,) = jobs_for(tiny_bundle(dynamic_batch=False), ADA, Path("out"), ["head"], None, None)
    assert profiles_of(fixed) == {}
