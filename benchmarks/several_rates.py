"""Claim: one network that was trained for several settings of its codec serves each of them as well as networks
that were trained for it alone.

    backbone --warm-up, training with all settings in each batch--> one network   --each setting--> bytes, accuracy
             --the same for one setting alone, as long-----------> one for each   --its setting---> bytes, accuracy

All have the same recipe, images, seeds and number of steps; the one network sees each setting in a part of them. A
third row is what the network that was trained for the finest setting alone does at the others. Networks are kept in
--folder.
"""

from __future__ import annotations

from typing import Any

from record import record
from small_trainings import backbone_of, bottleneck_of, numbers, recipe_of, training_parser

from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec
from bottlekit.training.bottleneck import BottleneckTraining
from bottlekit.training.data import dataset_from_name
from bottlekit.training.rates import at_rate, codecs_of_rates, setting_of
from bottlekit.training.train import measured_rates

CLAIM = "one network for several settings of its codec is as accurate at each as one trained for it alone"


def main() -> None:
    """Train what is missing, measure, print and record."""
    parser = training_parser(__doc__, "several-rates")
    parser.add_argument("--split", default="rb1")
    parser.add_argument("--codec", default="learned", help="with a static range")
    parser.add_argument("--rates", type=numbers(int), default=[1, 2, 4])
    parser.add_argument("--distill-epochs", type=int, default=2)
    options = parser.parse_args()
    data = dataset_from_name(options.data, input_size=options.input_size)
    source = backbone_of(options, data)
    unit = BottleneckSpec("bottlenet", options.split, 1, 2, 3)
    codecs = codecs_of_rates(CodecSpec(options.codec, range="static"), options.rates)
    setting = setting_of(codecs[0])
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        together = tuple(options.rates)
        for rates in (together, *((getattr(codec, setting),) for codec in codecs)):
            alone = len(rates) == 1
            path = options.folder / f"{'-'.join(map(str, rates))}-seed{seed}.safetensors"
            how = BottleneckTraining(distill_epochs=options.distill_epochs, rates=() if alone else rates)
            codec = at_rate(codecs[-1], max(rates))
            bottleneck_of(path, source, unit, codec, recipe_of(options, data), data, seed, how)
            network = load_checkpoint(path).network()
            assert isinstance(network, SplitNetwork)
            for row in measured_rates(network, codecs, data):
                if alone and row[setting] not in rates and max(rates) != max(together):
                    continue
                how_trained = f"for {setting} {', '.join(map(str, rates))}"
                rows.append({"trained": how_trained, "seed": seed, **row})
                print(
                    f"seed {seed}  {how_trained:20} at {setting} {row[setting]:3}  {row['split']:7.2%}  "
                    f"{row['payload_bytes_mean']:6.1f} B",
                    flush=True,
                )
    figures = {
        "data": data.name, "backbone": options.backbone, "input_size": data.input_size, "split": options.split,
        "codec": options.codec, "held_out_images": len(data.val), "epochs": options.epochs,
        "distill_epochs": options.distill_epochs, "rows": rows,
    }  # fmt: skip
    print(f"written: {record(CLAIM, figures)}")


if __name__ == "__main__":
    main()
