"""Train a small image classifier, make it forget, and compare it with one that never saw the forgotten images.

    python examples/demo.py --output out/demo                       # what `make demo` runs: about 4 minutes on 2 cores
    python examples/demo.py --output out/demo --seeds 0 1 2         # the table in the README

On the 6,000 real Fashion-MNIST images in examples/data: an HF ResNet is trained, then retrained from scratch without the images
to be forgotten (the reference that unlearning is measured against), then unlearned from the original by Scissorhands, for
(a) one class and (b) a random tenth of the examples. Prints and saves UA, RA, TA, MIA, the average gap to the retrained model,
seconds, and the share of retraining time; draws them to demo.png.
"""

import argparse
import json
import statistics
from collections.abc import Iterable
from pathlib import Path

import torch
from datasets import Dataset
from fashion_mnist import CLASSES, load_split, predict, train_from_scratch
from matplotlib.figure import Figure
from transformers import PreTrainedModel, Trainer, TrainingArguments

from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer, UnlearningReport
from scissorhands_hf.audit import unlearning_metrics
from scissorhands_hf.cli.terminal import Terminal
from scissorhands_hf.report.figures import METRICS
from scissorhands_hf.report.plots import draw_metrics
from scissorhands_hf.trainer.classification import split_forget_retain


EPOCHS = 20
FORGOTTEN_CLASS = "dress"
TASKS = {
    "class": f"forget the class {FORGOTTEN_CLASS!r}",
    "random": "forget a random 10 % of the examples",
}


def select(train: Dataset, test: Dataset, task: str, seed: int) -> dict[str, Dataset]:
    """Forget, retain and test set. For class forgetting the test set is without the class, too."""
    where = f"label={FORGOTTEN_CLASS}" if task == "class" else None
    forget, retain, _ = split_forget_retain(train, where, None if where else 0.1, seed)
    if task == "class":
        _, test, _ = split_forget_retain(test, where, None, seed)
    return {"forget": forget, "retain": retain, "test": test}


def measure(model: PreTrainedModel, sets: dict[str, Dataset], output: Path) -> dict[str, float]:
    """UA, RA, TA and MIA in percent."""
    args = TrainingArguments(
        output_dir=str(output), per_device_eval_batch_size=500, remove_unused_columns=False, use_cpu=True, disable_tqdm=True
    )
    evaluator = Trainer(model=model, args=args)
    return unlearning_metrics({name: predict(evaluator, dataset) for name, dataset in sets.items()})


def unlearn(
    original: PreTrainedModel, sets: dict[str, Dataset], task: str, seed: int, output: Path, terminal: Terminal
) -> ScissorhandsTrainer:
    """Unlearn a copy of the original with the recipe that was tuned for this data."""
    model = type(original)(original.config)
    model.load_state_dict(original.state_dict())
    args = ScissorhandsConfig(
        output_dir=str(output),
        recipe=f"fashion-mnist-{task}",
        seed=seed,
        save_strategy="no",
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=terminal.quiet,
    )
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=sets["retain"], forget_dataset=sets["forget"])
    terminal.follow(trainer)
    trainer.train()
    return trainer


def run_seed(
    seed: int, kind: str, epochs: int, examples: int, tasks: Iterable[str], output: Path, terminal: Terminal
) -> dict[str, UnlearningReport]:
    """All models of one seed; a report for each task with the figures of the original, retrained and unlearned model."""
    train, test = load_split("train").select(range(examples)), load_split("test")
    terminal.say(f"\n== seed {seed}: training the original on {len(train)} images")
    original, _ = train_from_scratch(kind, train, seed, epochs, str(output / "original"), terminal)
    reports = {}
    for task in tasks:
        sets = select(train, test, task, seed)
        terminal.say(f"\n== seed {seed}: {TASKS[task]}: retraining from scratch on the other {len(sets['retain'])}")
        retrained, seconds = train_from_scratch(kind, sets["retain"], seed, epochs, str(output / "retrained"), terminal)
        terminal.say(f"\n== seed {seed}: {TASKS[task]}: Scissorhands")
        trainer = unlearn(original, sets, task, seed, output / task, terminal)
        report = trainer.report()
        report.seconds["retrained"] = seconds
        for name, model in (("original", original), ("retrained", retrained), ("unlearned", trainer.model)):
            report.metrics[name] = measure(model, sets, output)
        sizes = ", ".join(f"{len(dataset)} {name}" for name, dataset in sets.items())
        report.notes.append(f"Fashion-MNIST subset, seed {seed}: {TASKS[task]}; {sizes} images.")
        report.save(output / f"{task}-seed{seed}.json")
        reports[task] = report
    return reports


def spread(values: list[float], digits: int = 1) -> str:
    """Mean, with the standard deviation over seeds where there are several."""
    text = f"{statistics.mean(values):.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def table(runs: list[dict[str, UnlearningReport]]) -> str:
    """One Markdown table over all seeds: a row for each task and model."""
    lines = [
        f"| task | model | {' | '.join(METRICS)} | avg. gap | seconds | share of retraining |",
        f"|---|---|{'---:|' * (len(METRICS) + 3)}",
    ]
    for task in runs[0]:
        reports = [run[task] for run in runs]
        for model in reports[0].metrics:
            cells = [spread([report.metrics[model][name] for report in reports]) for name in METRICS]
            gaps = [report.average_gaps().get(model) for report in reports]
            cells.append("" if None in gaps else spread(gaps))
            key = {"retrained": "retrained", "unlearned": "train"}.get(model)
            cells.append(spread([report.seconds[key] for report in reports]) if key else "")
            shares = [100 * report.seconds["train"] / report.seconds["retrained"] for report in reports]
            cells.append(f"{spread(shares)} %" if model == "unlearned" else "")
            lines.append(f"| {TASKS[task]} | {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(runs: list[dict[str, UnlearningReport]], path: Path) -> None:
    """The table as bars (means over the seeds), and the time that unlearning took beside that of retraining."""
    tasks = list(runs[0])
    figure = Figure(figsize=(6.2 * len(tasks), 7.2), layout="constrained")
    grid = figure.subplots(2, len(tasks), squeeze=False, height_ratios=[3, 1])
    for column, task in enumerate(tasks):
        reports = [run[task] for run in runs]
        means = {
            model: {name: statistics.mean(report.metrics[model][name] for report in reports) for name in METRICS}
            for model in reports[0].metrics
        }
        gap = statistics.mean(report.average_gaps()["unlearned"] for report in reports)
        title = (
            f"{TASKS[task][0].upper()}{TASKS[task][1:]}\naverage gap of the unlearned to the retrained model: {gap:.1f} points"
        )
        draw_metrics(grid[0][column], means, title)
        seconds = {key: statistics.mean(report.seconds[key] for report in reports) for key in ("retrained", "train")}
        bars = grid[1][column].barh(["retrain", "unlearn"], list(seconds.values()), color=["#2b9348", "#e07a5f"])
        share = 100 * seconds["train"] / seconds["retrained"]
        grid[1][column].bar_label(
            bars, [f"{seconds['retrained']:.0f} s", f"{seconds['train']:.0f} s ({share:.0f} %)"], padding=3
        )
        grid[1][column].set_xlim(0, 1.25 * seconds["retrained"])
        grid[1][column].invert_yaxis()
        grid[1][column].spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/demo"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--model", default="small", help="small, or resnet18")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of training and retraining")
    parser.add_argument("--examples", type=int, default=6000, help="training images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="show the libraries' bars, losses and warnings")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    with Terminal(args.verbose) as terminal:
        runs = [
            run_seed(seed, args.model, args.epochs, args.examples, args.tasks, args.output, terminal) for seed in args.seeds
        ]
    text = table(runs)
    seeds = ", ".join(map(str, args.seeds))
    print(f"\nForgetting, in percent (seeds {seeds}; the retrained model is the goal):\n\n{text}\n")
    print("\n".join(f"{name} = {meaning}" for name, meaning in METRICS.items()))
    print(f"For {TASKS['class']!r}, TA is over the other {len(CLASSES) - 1} classes.")
    (args.output / "table.md").write_text(text + "\n", encoding="utf-8")
    gaps = [{task: report.average_gaps()["unlearned"] for task, report in run.items()} for run in runs]
    (args.output / "gaps.json").write_text(json.dumps(dict(zip(args.seeds, gaps, strict=True)), indent=2) + "\n")
    draw(runs, args.output / "demo.png")
    print(f"Picture: {args.output / 'demo.png'}")


if __name__ == "__main__":
    main()
