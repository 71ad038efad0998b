"""What can be exported, and the one line for what cannot."""

from pathlib import Path

import pytest
import torch

from bottlekit.device.files import sha256_of_file
from bottlekit.errors import CheckpointError, UnknownNameError, UsageError
from bottlekit.export.source import Source, Untrained, source_from_file
from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.checkpoint import Checkpoint, save_checkpoint
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, Preprocessing

MODEL = ModelSpec("mobilenet_v3_small", 3, 32)
CODEC = CodecSpec("raw")


def unit_at(split: str) -> BottleneckSpec:
    return BottleneckSpec("bottlenet", split, channels=2)


def save(path: Path, split: str | None, with_baseline: bool = True) -> Path:
    network = SplitNetwork(MODEL, unit_at(split), CODEC) if split else backbone_from_name(MODEL.backbone, 3)
    baseline = network.backbone if isinstance(network, SplitNetwork) and with_baseline else None
    preprocessing = Preprocessing(resize=36, crop=32)
    checkpoint = Checkpoint.from_network(network, MODEL, ("a", "b", "c"), preprocessing, "digits", {}, baseline)
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return save(tmp_path / "trained.safetensors", "b3")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return save(tmp_path / "plain.safetensors", None)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    torch.save(backbone_from_name("mobilenet_v3_small", 7).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("split", [None, "b3"])
def test_a_trained_checkpoint_knows_its_split(trained: Path, split: str | None) -> None:
    source = source_from_file(trained, split, None)
    assert source.network.split.name == "b3"
    assert source.trained
    assert source.baseline is not None
    assert not source.network.training
    assert not source.baseline.training
    assert source.sha256 == sha256_of_file(str(trained))


def test_without_baseline_weights_there_is_no_baseline(tmp_path: Path) -> None:
    path = save(tmp_path / "small.safetensors", "b3", with_baseline=False)
    assert source_from_file(path, None, None).baseline is None


def test_another_split_is_refused_with_the_command_that_trains_it(trained: Path) -> None:
    with pytest.raises(UsageError) as caught:
        source_from_file(trained, "b4", None)
    assert str(caught.value) == (
        f"{trained} was trained for --split b3, not b4; leave --split out, or train another: "
        f"bottlekit train --from {trained} --split b4 -o trained-b4.safetensors"
    )


@pytest.mark.parametrize("path_of", ["trained", "plain"])
def test_a_split_that_does_not_exist_is_refused_with_those_that_do(
    path_of: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(UnknownNameError, match=r"'rb1' does not exist; there are: b1, b2, .*b11"):
        source_from_file(request.getfixturevalue(path_of), "rb1", None)


@pytest.mark.parametrize(("split", "proposed"), [(None, "b1"), ("b5", "b5")])
def test_a_backbone_is_refused_with_the_command_that_trains_a_bottleneck(
    plain: Path, split: str | None, proposed: str
) -> None:
    with pytest.raises(UsageError) as caught:
        source_from_file(plain, split, None)
    assert f"bottlekit train --from {plain} --split {proposed} -o plain-{proposed}.safetensors" in str(caught.value)
    assert "--untrained" in str(caught.value)


def test_a_state_dict_is_refused_with_the_command_that_makes_a_checkpoint(foreign: Path) -> None:
    with pytest.raises(UsageError, match=r"bottlekit train --weights .*weights\.pth --epochs 0"):
        source_from_file(foreign, "b3", None)


def test_a_file_that_is_missing_or_cut_short_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors"):
        source_from_file(tmp_path / "nowhere.safetensors", None, None)
    trained.write_bytes(trained.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"trained\.safetensors"):
        source_from_file(trained, None, None)


def assert_same_weights(source: Source, state: dict[str, torch.Tensor]) -> None:
    for name, tensor in source.network.backbone.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)


def test_an_untrained_unit_goes_into_a_backbone(plain: Path) -> None:
    source = source_from_file(plain, "b5", Untrained(unit_at("b5"), CODEC))
    assert not source.trained
    assert source.network.split.name == "b5"
    assert source.checkpoint.classes == ("a", "b", "c")
    assert not source.network.training
    assert source.baseline is not None
    assert_same_weights(source, dict(source.baseline.state_dict()))


def test_an_untrained_unit_is_the_same_every_time_and_leaves_the_dice_alone(plain: Path) -> None:
    untrained = Untrained(unit_at("b5"), CODEC)
    torch.manual_seed(1)
    first = source_from_file(plain, None, untrained).network.unit.state_dict()
    thrown = torch.rand(3)
    torch.manual_seed(1)
    torch.testing.assert_close(torch.rand(3), thrown, rtol=0, atol=0)
    torch.manual_seed(2)
    second = source_from_file(plain, None, untrained).network.unit.state_dict()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0)


def test_an_untrained_unit_goes_into_torchvision_weights(foreign: Path) -> None:
    untrained = Untrained(unit_at("b2"), CODEC, backbone="mobilenet_v3_small", input_size=64)
    source = source_from_file(foreign, "b2", untrained)
    assert source.network.model == ModelSpec("mobilenet_v3_small", 7, 64)
    assert source.checkpoint.classes == tuple(f"class {index}" for index in range(7))
    assert source.checkpoint.preprocessing.crop == 64
    assert_same_weights(source, torch.load(foreign, weights_only=True))


def test_torchvision_weights_are_for_224_pixels_unless_said(foreign: Path) -> None:
    untrained = Untrained(unit_at("b2"), CODEC, backbone="mobilenet_v3_small")
    source = source_from_file(foreign, "b2", untrained)
    assert source.network.model.input_size == 224
    assert source.checkpoint.preprocessing.resize == 256


@pytest.mark.parametrize(
    ("path_of", "untrained", "error", "words"),
    [
        ("trained", Untrained(unit_at("b3"), CODEC), UsageError, "trained bottleneck at b3; leave --untrained out"),
        ("plain", Untrained(unit_at("b3"), CODEC, backbone="resnet18"), UsageError, "not --backbone resnet18"),
        ("plain", Untrained(unit_at("b3"), CODEC, input_size=64), UsageError, "32 pixels, not --input-size 64"),
        ("plain", Untrained(unit_at("rb3"), CODEC), UnknownNameError, "there are: b1, b2"),
        ("foreign", Untrained(unit_at("b3"), CODEC), UsageError, "add --backbone NAME"),
        ("foreign", Untrained(unit_at("b3"), CODEC, backbone="nix"), UnknownNameError, "there are: resnet18"),
        ("foreign", Untrained(unit_at("rb1"), CODEC, backbone="resnet18"), CheckpointError, r"lacks fc\.weight"),
        (
            "foreign",
            Untrained(unit_at("b1"), CODEC, backbone="mobilenet_v3_large"),
            CheckpointError,
            "does not hold",
        ),
    ],
)
def test_what_does_not_fit_an_untrained_unit_is_refused(
    path_of: str, untrained: Untrained, error: type[Exception], words: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(error, match=words) as caught:
        source_from_file(request.getfixturevalue(path_of), untrained.bottleneck.split, untrained)
    assert "\n" not in str(caught.value)


def test_an_untrained_unit_for_another_split_is_refused(plain: Path) -> None:
    with pytest.raises(UsageError, match="is for b5, not --split b4"):
        source_from_file(plain, "b4", Untrained(unit_at("b5"), CODEC))
