"""The half of `sc2bench_side_by_side.py` that runs in sc2bench's environment; it imports nothing of bottlekit.

    plan.json, arrays and weights of the common folder
      --> for each run: sc2bench's SplittableResNet around the common backbone, trained on the common batches
      --> <run>.json: bytes and right answers for each held-out image, ideal bits, MACs, the loss of each epoch
          <run>.pt:   the network, for --time and --latents
      --latents: <run>.latents.npz, what its density codes for calibration and held-out images

Bottlenecks:
    own     FPBasedResNetBottleneck as it is: its own encoder of 5 x 5 convolutions and GDN; for networks whose
            layer1 has a quarter of the image's size, as torchvision's
    same    FPBasedResNetBottleneck around the backbone's first layers and bottlekit's unit, less the unit's last
            norm and ReLU, as latents have signs
    crbq    SimpleBottleneck around those layers and that unit, SimpleQuantizer and SimpleDequantizer of 8 bits
Ways to train, after sc2bench's configurations:
    two-stage     the bottleneck learns the features of layer1..layer4 of the network without it, and pays for bits;
                  then encoder and density are frozen, the rest learns labels and that network's answers
    end-to-end    everything learns the labels, and pays for bits
In favour of sc2bench, as bottlekit calibrates its tables too: when an encoder is done, its density is trained on
with training images, and the ends of its tables are searched instead of learned. A payload is the entropy coder's
string alone, or the codes, the scale and the zero point; not the pickled object whose size sc2bench reports.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

# The wheels of torchvision are linked against CUDA; beside a CPU torch they only import with these declared.
if not torch.backends.cuda.is_built():
    for _operator in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{_operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )

import compressai
import sc2bench
import torchvision
from phase_times import phases_in_turns
from sc2bench.loss import BppLoss
from sc2bench.models.backbone import SplittableResNet
from sc2bench.models.layer import FPBasedResNetBottleneck, SimpleBottleneck
from sc2bench.transforms.misc import SimpleDequantizer, SimpleQuantizer
from torchdistill.models.classification.resnet import resnet as cifar_resnet

EVALUATION_BATCH = 64
REFIT_STEPS = 200
REFIT_BATCH = 64
REFIT_RATE = 0.01
STAGES = {"two-stage": ("features", "answers"), "end-to-end": ("labels",)}


class Common:
    """What both environments share, read from the plan's folder."""

    def __init__(self, plan: Path) -> None:
        self.folder = plan.parent
        self.plan: dict[str, Any] = json.loads(plan.read_text("utf-8"))
        self.inputs = np.load(self.folder / "inputs.npy", mmap_mode="r")  # (epochs, n, 3, h, w)
        self.labels = torch.from_numpy(np.load(self.folder / "labels.npy"))
        self.orders = np.load(self.folder / "orders.npy")  # (seeds, epochs, n)
        self.calibration = torch.from_numpy(np.load(self.folder / "calibration.npy"))
        self.held_out = torch.from_numpy(np.load(self.folder / "held_out.npy"))
        self.held_out_labels = torch.from_numpy(np.load(self.folder / "held_out_labels.npy"))
        self.weights = torch.load(self.folder / "weights.pt", weights_only=True)

    def backbone(self) -> nn.Module:
        """The network without a bottleneck, which must answer as bottlekit's does."""
        name, classes = self.plan["backbone"], self.plan["classes"]
        network: nn.Module
        if name.startswith("cifar_resnet"):
            network = cifar_resnet(
                int(name.removeprefix("cifar_resnet")), classes, pretrained=False, progress=False
            )
        else:
            network = torchvision.models.get_model(name, num_classes=classes, weights=None)
        network.load_state_dict(self.weights)
        network.eval()
        with torch.inference_mode():
            answers = network(self.held_out[:EVALUATION_BATCH])
        wanted = torch.from_numpy(np.load(self.folder / "logits.npy"))[:EVALUATION_BATCH]
        torch.testing.assert_close(answers, wanted, rtol=1e-3, atol=1e-3)
        return network

    def batches(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, the same for every network of a seed."""
        size = self.plan["batch_size"]
        order = self.orders[seed, epoch]
        for start in range(0, len(order) - size + 1, size):
            places = order[start : start + size]
            images = torch.from_numpy(self.inputs[epoch][places])
            yield images.to(memory_format=torch.channels_last), self.labels[places]


def main() -> None:
    """Train and measure what is missing, time one network, or write what some of them code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--time", help="the name of the trained run whose phases to time, as JSON on the output")
    parser.add_argument("--latents", nargs="+", default=(), help="names of trained runs whose latents to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    common = Common(options.plan)
    if options.time:
        torch.set_num_threads(1)
        network = torch.load(common.folder / f"{options.time}.pt", weights_only=False)
        print(json.dumps(timed(network, common)))
        return
    if options.latents:
        for name in options.latents:
            network = torch.load(common.folder / f"{name}.pt", weights_only=False)
            np.savez(common.folder / f"{name}.latents.npz", **rounded_latents(network, common))
        return
    for run in common.plan["runs"]:
        result = common.folder / f"{run['name']}.json"
        if result.exists():
            continue
        network, losses = trained(run, common)
        figures = run | measured(network, common) | {"losses": losses, "versions": versions()}
        torch.save(network, common.folder / f"{run['name']}.pt")
        result.write_text(json.dumps(figures), encoding="utf-8")
        print(f"{run['name']} {np.mean(figures['sizes']):.1f} B", f"{figures['accuracy']:.2%}", flush=True)


def versions() -> dict[str, str]:
    """What trained and measured here."""
    found = (compressai, sc2bench, torch, torchvision, np)
    return {module.__name__: str(module.__version__) for module in found}


def network_of_run(run: dict[str, Any], backbone: nn.Module) -> nn.Module:
    """sc2bench's network around a copy of the backbone; new weights from torch's generator."""
    parts: Any = copy.deepcopy(backbone)
    channels = run["channels"]
    wide = parts.layer1[-1].conv2.out_channels
    names = ("conv1", "bn1", "relu", "maxpool", "layer1")
    first = [getattr(parts, name) for name in names if hasattr(parts, name)]
    reduce, restore = unit(wide, channels, run["spatial"])
    layer: Any
    if run["bottleneck"] == "own":
        layer = FPBasedResNetBottleneck(num_bottleneck_channels=channels, num_target_channels=wide)
    elif run["bottleneck"] == "same":
        layer = FPBasedResNetBottleneck(num_bottleneck_channels=channels, num_target_channels=wide)
        layer.encoder, layer.decoder = nn.Sequential(*first, *reduce), nn.Sequential(*restore)
    else:
        encoder = nn.Sequential(*first, *reduce, nn.BatchNorm2d(channels), nn.ReLU())
        layer = SimpleBottleneck(encoder, nn.Sequential(*restore), SimpleQuantizer(8), SimpleDequantizer(8))
    rest = [name for name in layers_of(parts) if name != "layer1"]
    return SplittableResNet(layer, parts, skips_avgpool=False, skips_fc=False, short_module_names=rest)


def unit(wide: int, narrow: int, spatial: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """BottleNet's reduction to `narrow` channels and 1 / `spatial` (1 or 2) of an even size, and what restores it.

    The reduction is without its last norm and ReLU.
    """
    reduce: list[nn.Module] = [nn.Conv2d(wide, narrow, 1)]
    restore: list[nn.Module] = [nn.Conv2d(narrow, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
    if spatial == 2:
        reduce += [nn.BatchNorm2d(narrow), nn.ReLU(), nn.Conv2d(narrow, narrow, 3, 2, 1)]
        grow = nn.ConvTranspose2d(narrow, narrow, 3, 2, 1, 1, bias=False)
        restore = [grow, nn.BatchNorm2d(narrow), nn.ReLU(), *restore]
    for module in (*reduce, *restore):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return reduce, restore


def layers_of(network: nn.Module) -> list[str]:
    """The names of a residual network's stages."""
    return [name for name, _ in network.named_children() if name.startswith("layer")]


def trained(run: dict[str, Any], common: Common) -> tuple[nn.Module, list[float]]:
    """A network of this run, and the mean loss of each epoch."""
    torch.manual_seed(run["seed"])
    teacher = common.backbone()
    network: Any = network_of_run(run, teacher).to(memory_format=torch.channels_last)
    layer = network.bottleneck_layer
    density: Any = getattr(layer, "entropy_bottleneck", None)
    losses: list[float] = []
    epoch = 0
    stages = STAGES[run["way"]]
    for stage in stages:
        epochs = common.plan["epochs"] // len(stages)
        network.requires_grad_(True)
        rest = [network.get_submodule(name) for name in layers_of(teacher)[1:]]
        frozen = [*rest, network.fc] if stage == "features" else []
        if stage == "answers":
            settle(layer, density, common)
            network.update()
            frozen = [layer.encoder] + ([density] if density is not None else [])
        for module in frozen:
            module.requires_grad_(False)
        optimizer = optimizer_of(network, density, common.plan)
        rates = common.plan["learning_rates"][str(epochs)]
        step = 0
        for _ in range(epochs):
            network.train()
            for module in frozen:
                module.eval()
            of_epoch = []
            for images, labels in common.batches(run["seed"], epoch):
                for group in optimizer.param_groups:
                    group["lr"] = rates[step] * group["times"]
                loss = loss_of(stage, network, teacher, images, labels, run["weight"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                of_epoch.append(float(loss.detach()))
                step += 1
            losses.append(float(np.mean(of_epoch)))
            epoch += 1
    if stages[-1] != "answers":
        settle(layer, density, common)
        network.update()
    return network.eval(), losses


def optimizer_of(network: nn.Module, density: nn.Module | None, plan: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW as bottlekit's; no weight decay for vectors and for the density, which learns faster than the rest."""
    of_density = [] if density is None else [p for p in density.parameters() if p.requires_grad]
    known = {id(parameter) for parameter in of_density}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": plan["weight_decay"], "times": 1.0},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "times": 1.0},
        {"params": of_density, "weight_decay": 0.0, "times": plan["density_times"]},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=(plan["momentum"], 0.999))


def loss_of(stage: str, network: Any, teacher: nn.Module, images: Tensor, labels: Tensor, weight: float) -> Tensor:
    """The loss of a batch; `weight` is what a bit adds to it, a bit of each image in the stage `features`."""
    if stage == "labels":
        logits, seen = watched(network, ("bottleneck_layer.entropy_bottleneck",), images)
        return F.cross_entropy(logits, labels) + weight * bits(seen, "batchmean")
    if stage == "answers":
        with torch.no_grad():
            wanted = teacher(images).log_softmax(1)
        logits = network(images)
        divergence = F.kl_div(logits.log_softmax(1), wanted, reduction="batchmean", log_target=True)
        return 0.5 * F.cross_entropy(logits, labels) + 0.5 * divergence
    with torch.no_grad():
        layers = layers_of(teacher)
        _, goal = watched(teacher, layers, images)
    paths = ["bottleneck_layer", *layers[1:]]
    has_density = hasattr(network.bottleneck_layer, "entropy_bottleneck")
    _, seen = watched(network, [*paths, *(["bottleneck_layer.entropy_bottleneck"] if has_density else [])], images)
    loss = sum(
        F.mse_loss(seen[mine], goal[theirs], reduction="sum") for mine, theirs in zip(paths, layers, strict=True)
    )
    assert isinstance(loss, Tensor)
    return loss + weight * bits(seen, "sum") if has_density else loss


def bits(seen: dict[str, Any], reduction: str) -> Tensor:
    """sc2bench's estimate of the bits of a batch."""
    path = "bottleneck_layer.entropy_bottleneck"
    found: Tensor = BppLoss(path, reduction)({path: {"output": seen[path]}})
    return found


def watched(network: nn.Module, paths: Any, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The network's answers, and what these modules gave."""
    seen: dict[str, Any] = {}

    def keep(path: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(path, output)

    hooks = [network.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    try:
        return network(images), seen
    finally:
        for hook in hooks:
            hook.remove()


def settle(layer: Any, density: Any, common: Common) -> None:
    """Train the density on with what the finished encoder gives for training images, and write its tables."""
    if density is None:
        return
    layer.eval()
    with torch.no_grad():
        latents = torch.cat([layer.encoder(part) for part in common.calibration.split(EVALUATION_BATCH)])
    learner = torch.optim.Adam([p for n, p in density.named_parameters() if n != "quantiles"], lr=REFIT_RATE)
    with torch.enable_grad():
        for _ in range(REFIT_STEPS):
            some = latents[torch.randperm(len(latents))[:REFIT_BATCH]]
            loss = -density(some, training=True)[1].log2().sum() / len(some)
            learner.zero_grad()
            loss.backward()
            learner.step()
    density.update(force=True, update_quantiles=True)


@torch.inference_mode()
def measured(network: Any, common: Common) -> dict[str, Any]:
    """Bytes, ideal bits and right answers for each held-out image; MACs."""
    layer = network.bottleneck_layer
    density = getattr(layer, "entropy_bottleneck", None)
    sizes: list[int] = []
    ideal: list[float] = []
    answers: list[int] = []
    # A density codes each image of a batch alone; sc2bench's quantiser takes one range for a whole batch.
    for images in common.held_out.split(1 if density is None else EVALUATION_BATCH):
        sizes += payload_bytes(layer.encode(images))
        answers += network(images).argmax(1).tolist()  # encodes and decodes again
        if density is not None:
            likely = density(layer.encoder(images), training=False)[1]
            ideal += [round(float(value), 2) for value in -likely.log2().sum((1, 2, 3))]
    right = [int(answer == label) for answer, label in zip(answers, common.held_out_labels.tolist(), strict=True)]
    image = common.held_out[:1]
    with FlopCounterMode(display=False) as counter:
        latent = layer.encoder(image)
    return {
        "sizes": sizes, "right": "".join(map(str, right)), "ideal_bits": ideal,
        "accuracy": float(np.mean(right)), "shape": list(latent.shape[1:]),
        "head_macs": counter.get_total_flops() // 2,
    }  # fmt: skip


def payload_bytes(sent: dict[str, Any]) -> list[int]:
    """What has to travel for each image of a batch, or for the one image of quantised codes."""
    if "strings" in sent:
        return [sum(map(len, strings)) for strings in zip(*sent["strings"], strict=True)]
    codes = sent["z"]
    return [codes.tensor.numel() * codes.tensor.element_size() + 4 + 1]  # scale and zero point


@torch.inference_mode()
def timed(network: Any, common: Common) -> dict[str, list[float]]:
    """Milliseconds of head, encode and decode for the first held-out images, one at a time, on one thread."""
    layer = network.bottleneck_layer
    images = common.held_out[: common.plan["timed_images"]].split(1)
    density = getattr(layer, "entropy_bottleneck", None)
    if density is None:
        coder = {"encode": layer.compressor, "decode": layer.decompressor}
    else:
        size = layer.encoder(images[0]).shape[-2:]
        coder = {"encode": density.compress, "decode": lambda strings: density.decompress(strings, size)}
    return phases_in_turns({"head": layer.encoder, **coder}, images)


@torch.inference_mode()
def rounded_latents(network: Any, common: Common) -> dict[str, Any]:
    """What the density codes, int16 (n, c, h, w), for the calibration and the held-out images."""
    layer = network.bottleneck_layer
    medians = layer.entropy_bottleneck.quantiles[:, 0, 1].reshape(1, -1, 1, 1)
    return {
        name: torch.cat([layer.encoder(some).sub(medians).round() for some in images.split(EVALUATION_BATCH)])
        .to(torch.int16)
        .numpy()
        for name, images in (("calibration", common.calibration), ("held_out", common.held_out))
    }


if __name__ == "__main__":
    main()
