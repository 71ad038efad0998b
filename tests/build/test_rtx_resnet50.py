"""TensorRT-RTX compiles the head and the tail of ResNet-50 at all 16 residual blocks, typed FP16, at 224 x 224."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from bottlekit.device.trt import PlanOptions, import_tensorrt, plan_from_onnx
from bottlekit.targets.loader import target_from_name

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX has no package for this platform"
    ),
]
ADA = target_from_name("rtx-ada")
SPLITS = [f"rb{index}" for index in range(1, 17)]
MAX_BATCH = 4


@pytest.fixture(name="resnet50", scope="module")
def _resnet50(lived_in: Callable[..., Any]) -> Any:
    """A ResNet-50 with random weights and batch norms as training leaves them."""
    import torch

    from bottlekit.models.backbones import backbone_from_name

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(50)
        return lived_in(backbone_from_name("resnet50", 1000), torch.randn(2, 3, 224, 224))


def test_resnet50_has_these_blocks() -> None:
    from bottlekit.models.splits import split_names

    assert list(split_names("resnet50")) == SPLITS


@pytest.mark.parametrize("split", SPLITS)
def test_head_and_tail_compile_in_fp16(resnet50: Any, split: str) -> None:
    import onnx
    import torch

    from bottlekit.export.graphs import onnx_from_module
    from bottlekit.export.lowering import fp16_model
    from bottlekit.models.network import SplitNetwork
    from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec

    bottleneck = BottleneckSpec("bottlenet", split, channels=8)
    network = SplitNetwork(ModelSpec("resnet50", 1000, 224), bottleneck, CodecSpec("jpeg", 8, 20), resnet50).eval()
    for part, module, shape, names in (
        ("head", network.head, (3, 224, 224), ("image", "feature")),
        ("tail", network.tail, network.feature_shape, ("feature", "logits")),
    ):
        graph = fp16_model(onnx_from_module(module, torch.zeros(1, *shape), *names, dynamic_batch=True))
        weights = sum(
            len(tensor.raw_data)
            for tensor in graph.graph.initializer
            if tensor.data_type == onnx.TensorProto.FLOAT16
        )
        profile = {names[0]: ((1, *shape), (1, *shape), (MAX_BATCH, *shape))}
        options = PlanOptions(ADA.workspace_bytes, ADA.sm, profile)
        plan = plan_from_onnx(
            import_tensorrt("tensorrt_rtx"), graph.SerializeToString(), options, f"{split} {part}.onnx"
        )
        # The plan holds every weight as FP16: fewer bytes would be another network, twice as many another type.
        assert 0.95 * weights < len(plan.content) < 1.3 * weights + 1_000_000
        assert plan.content[:4] == b"vtrt"
