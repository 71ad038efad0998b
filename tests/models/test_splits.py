from __future__ import annotations

import pytest
import torch

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.models.backbones import BACKBONES, backbone_on_meta
from bottlekit.models.splits import split_names, split_spec, split_specs
from bottlekit.specs import ModelSpec, SplitSpec


@pytest.mark.parametrize("name", BACKBONES)
def test_shapes_are_those_of_a_real_forward_pass(name: str) -> None:
    network = backbone_on_meta(name, 10).to_empty(device="cpu")  # the numbers do not matter here
    seen: dict[str, tuple[int, ...]] = {}
    for path, module in network.named_modules():
        module.register_forward_hook(
            lambda _module, _inputs, output, path=path: seen.__setitem__(path, tuple(output.shape))
        )
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    specs = split_specs(ModelSpec(name, 10, 64))
    assert [spec.name for spec in specs] == list(split_names(name))
    for index, spec in enumerate(specs, start=1):
        assert (1, spec.channels, spec.height, spec.width) == seen[spec.module], spec
        assert (spec.index, spec.stride) == (index, round(64 / spec.height))


def test_resnet50_at_224() -> None:
    """The feature sizes that the BottleNet and Butterfly papers start from."""
    specs = split_specs(ModelSpec("resnet50", 1000, 224))
    expected = [(256, 56, 4)] * 3 + [(512, 28, 8)] * 4 + [(1024, 14, 16)] * 6 + [(2048, 7, 32)] * 3
    assert [(spec.channels, spec.height, spec.stride) for spec in specs] == expected
    assert specs[0] == SplitSpec("rb1", 1, "layer1.0", 256, 56, 56, 4)


def test_a_declared_split_by_name() -> None:
    model = ModelSpec("resnet18", 10, 64)
    assert split_spec(model, "rb3") == split_specs(model)[2] == SplitSpec("rb3", 3, "layer2.0", 128, 8, 8, 8)
    assert split_spec(model, "layer2.0") == split_spec(model, "rb3")


@pytest.mark.parametrize(
    ("backbone", "path", "index", "shape"),
    [
        ("vgg11", "features.7", 2, (256, 16, 16)),
        ("vgg11", "features.9", 2, (256, 16, 16)),
        ("vgg11", "features.0", 0, (64, 64, 64)),
        ("resnet18", "layer2", 4, (128, 8, 8)),
        ("resnet18", "maxpool", 0, (64, 16, 16)),
        ("mobilenet_v2", "features.18", 17, (1280, 2, 2)),
    ],
)
def test_any_module_with_one_tensor_at_its_output(
    backbone: str, path: str, index: int, shape: tuple[int, int, int]
) -> None:
    spec = split_spec(ModelSpec(backbone, 10, 64), path)
    assert spec == SplitSpec(path, index, path, *shape, round(64 / shape[1]))


def test_an_unknown_split_lists_those_that_exist() -> None:
    with pytest.raises(UnknownNameError) as caught:
        split_spec(ModelSpec("resnet18", 10, 64), "rb9")
    assert caught.value.known == ["rb1", "rb2", "rb3", "rb4", "rb5", "rb6", "rb7", "rb8"]
    assert "split point of resnet18 'rb9' does not exist" in str(caught.value)


@pytest.mark.parametrize("path", ["", ".", "layer1.", "layer1.9", "Layer1.0"])
def test_a_path_that_is_no_module_is_unknown(path: str) -> None:
    with pytest.raises(UnknownNameError):
        split_spec(ModelSpec("resnet18", 10, 64), path)


def test_a_module_inside_a_residual_block_is_refused() -> None:
    with pytest.raises(UsageError, match=r"needs 2 tensors.*the output of maxpool, the output of layer1\.0\.conv2"):
        split_spec(ModelSpec("resnet18", 10, 64), "layer1.0.conv2")


def test_a_vector_is_no_feature_map() -> None:
    with pytest.raises(UsageError, match=r"cannot cut resnet18 at 'fc': its output has the shape \(1, 10\)"):
        split_spec(ModelSpec("resnet18", 10, 64), "fc")


def test_too_small_an_input_names_the_smallest_that_works() -> None:
    with pytest.raises(UsageError, match=r"alexnet cannot take --input-size 62.*smallest it takes is 63"):
        split_specs(ModelSpec("alexnet", 10, 62))
    assert split_specs(ModelSpec("alexnet", 10, 63))[-1].height == 1


def test_odd_input_sizes() -> None:
    heights = [spec.height for spec in split_specs(ModelSpec("resnet18", 10, 65))]
    assert heights == [17, 17, 9, 9, 5, 5, 3, 3]


def test_unknown_backbones_are_refused_everywhere() -> None:
    with pytest.raises(UnknownNameError):
        split_names("resnet51")
    with pytest.raises(UnknownNameError):
        split_specs(ModelSpec("resnet51", 10, 64))
    with pytest.raises(UnknownNameError):
        split_spec(ModelSpec("resnet51", 10, 64), "rb1")


def test_the_answer_may_be_changed_without_harm() -> None:
    model = ModelSpec("resnet18", 10, 64)
    split_specs(model).clear()
    assert len(split_specs(model)) == 8
