"""Does the method at its published random-forgetting settings ruin the model? Loss curves over five seeds.

    python benchmarks/divergence.py --output out/divergence         # about 40 minutes on 2 cores

An 11.2M-weight HF ResNet-18 is trained on 5,000 Fashion-MNIST images (examples/data) until it knows them by heart, then
forgets 500 random ones with the recipe "cifar10-random-10" (margin 0.5 in absolute units, λ 0.05, lr 5e-3, 10 epochs, batch
256), once as this package runs it (ascent ceiling, gradient norm at most 1, Trainer's default) and once as published
(neither). Saves the curves as JSON and PNG, and prints UA, RA, TA and MIA of each. Originals already in the output folder are
used again.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import datasets
import torch
from matplotlib.figure import Figure
from transformers import ResNetForImageClassification

from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer, UnlearningDivergedError


sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from demo import measure, select
from fashion_mnist import load_split, train_from_scratch


VARIANTS = {
    "as this package runs it": {},
    "as published: no ceiling, no clipping": {
        "forget_loss_ceiling": math.inf,
        "max_grad_norm": 0.0,
        "divergence_factor": math.inf,
    },
}


def original(seed: int, output: Path) -> ResNetForImageClassification:
    """The trained model of this seed, from the output folder if it is there."""
    folder = output / f"original-{seed}"
    if not folder.is_dir():
        train = load_split("train").select(range(5000))
        model, _ = train_from_scratch("resnet18", train, seed, 15, str(output / "training"), learning_rate=0.05)
        model.save_pretrained(folder)
    return ResNetForImageClassification.from_pretrained(folder)


def run(seed: int, name: str, output: Path) -> dict:
    """Loss curves, and the four figures where the run came to its end."""
    sets = select(load_split("train").select(range(5000)), load_split("test"), "random", seed)
    args = ScissorhandsConfig(
        output_dir=str(output / "run"),
        recipe="cifar10-random-10",
        seed=seed,
        save_strategy="no",
        logging_steps=1,
        remove_unused_columns=False,
        use_cpu=True,
        **VARIANTS[name],
    )
    model = original(seed, output)
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=sets["retain"], forget_dataset=sets["forget"])
    record: dict = {"seed": seed, "variant": name, "error": None}
    try:
        trainer.train()
    except UnlearningDivergedError as error:
        record["error"] = str(error).split(";")[0]
    record["history"] = trainer.report().history
    if record["error"] is None:
        record["metrics"] = measure(model, sets, output)
    return record


def draw(records: list[dict], path: Path) -> None:
    """Retain and forget loss of every run, one row for each variant."""
    figure = Figure(figsize=(11, 3.4 * len(VARIANTS)), layout="constrained")
    grid = figure.subplots(len(VARIANTS), 2, squeeze=False)
    for row, name in zip(grid, VARIANTS, strict=True):
        for axes, key in zip(row, ("retain_loss", "forget_loss"), strict=True):
            for record in (record for record in records if record["variant"] == name):
                points = [
                    (entry["step"], entry[key]) for entry in record["history"] if key in entry and math.isfinite(entry[key])
                ]
                axes.plot(
                    *zip(*points, strict=True), label=f"seed {record['seed']}{' (stopped)' if record['error'] else ''}", lw=1
                )
            axes.set_title(f"{key.replace('_', ' ')}, {name}", fontsize=10)
            axes.set_xlabel("optimizer step")
            axes.set_yscale("log")
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/divergence"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    datasets.disable_progress_bars()
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "divergence.json"
    records = json.loads(path.read_text()) if path.is_file() else []
    for seed in args.seeds:
        for name in args.variants:
            if not any((record["seed"], record["variant"]) == (seed, name) for record in records):
                records.append(run(seed, name, args.output))
                path.write_text(json.dumps(records))
            record = next(record for record in records if (record["seed"], record["variant"]) == (seed, name))
            figures = " ".join(f"{key} {value:.1f}" for key, value in record.get("metrics", {}).items())
            print(f"seed {seed}, {name}: {record['error'] or figures}", flush=True)
    draw(records, args.output / "divergence.png")


if __name__ == "__main__":
    main()
