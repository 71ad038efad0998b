from __future__ import annotations

import subprocess
import sys

import pytest

from bottlekit.models.torchvision_import import torchvision_models


def test_classifiers_can_be_built() -> None:
    assert callable(torchvision_models().resnet18)
    assert torchvision_models() is torchvision_models()


@pytest.mark.slow
@pytest.mark.parametrize(
    "before",
    [
        "",
        "import torch",
        # the operators are there already, as after another program's workaround
        "import torch; d = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'\n"
        "for op in ('nms', 'qnms'): torch.library.define(f'torchvision::{op}', d)",
    ],
)
def test_in_a_fresh_process(before: str) -> None:
    script = f"{before}\nfrom bottlekit.models.torchvision_import import torchvision_models as models\n"
    script += "models(); models(); import torchvision; print(models().__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("torchvision.models", 0), done.stderr
