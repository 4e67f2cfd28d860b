"""Make a small classifier forget a class, measure it against a retrained one, write its card, and push it to the Hub.

    python examples/push_unlearned.py --output out/push                                   # everything but the upload
    python examples/push_unlearned.py --output out/push --repo_id me/no-dress --private   # the same, and uploads it

The class task of `examples/demo.py`: an HF ResNet is trained on real Fashion-MNIST images, retrained without the class, and
unlearned. What is pushed is in the folder named at the end: model, card, plot and the part of the report that --disclose
allows. Log in first with `hf auth login`.
"""

import argparse
from pathlib import Path

import torch
from demo import EPOCHS, FORGOTTEN_CLASS, measure, select, unlearn
from fashion_mnist import load_split, train_from_scratch

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.cli.terminal import Terminal
from scissorhands_hf.hub import write_card


def forget_and_measure(args: argparse.Namespace, terminal: Terminal) -> ScissorhandsTrainer:
    """The trainer of the unlearned model, with all figures in the report in its output folder."""
    sets = select(load_split("train").select(range(args.examples)), load_split("test"), "class", args.seed)
    whole = load_split("train").select(range(args.examples))
    original, _ = train_from_scratch("small", whole, args.seed, args.epochs, str(args.output / "original"), terminal)
    retrained, seconds = train_from_scratch(
        "small", sets["retain"], args.seed, args.epochs, str(args.output / "retrained"), terminal
    )
    trainer = unlearn(original, sets, "class", args.seed, args.output / "unlearned", terminal)
    report = trainer.report()
    report.seconds["retrained"] = seconds
    report.sets["eval:test"] = len(sets["test"])
    for name, model in (("original", original), ("retrained", retrained), ("unlearned", trainer.model)):
        report.metrics[name] = measure(model, sets, args.output)
    report.notes.append(f"Images of Fashion-MNIST, those in examples/data; the test set is without {FORGOTTEN_CLASS!r}.")
    trainer.save_model()
    report.save(trainer.args.output_dir)
    return trainer


def measure_and_push(args: argparse.Namespace, terminal: Terminal) -> None:
    trainer = forget_and_measure(args, terminal)
    choices = {
        "disclose": args.disclose,
        "forgotten": f"They are those of the class {FORGOTTEN_CLASS!r}.",
        "license": "apache-2.0",
    }
    card = write_card(trainer.args.output_dir, args.repo_id, **choices)
    terminal.say(f"Card: {card}")
    if args.repo_id is None:
        terminal.say(f"To push it: scissorhands push {card.parent} REPO")
        return
    trainer.args.hub_model_id = args.repo_id
    commit = trainer.push_to_hub(private=args.private or None, create_pr=args.create_pr, **choices)
    terminal.say(f"Pushed: {commit.pr_url or commit.commit_url}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/push"))
    parser.add_argument("--repo_id", help="owner/name to push to, or name in your own namespace; none: no upload")
    parser.add_argument("--private", action="store_true", help="create the repository private")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request in a repository that exists")
    parser.add_argument("--disclose", choices=("full", "summary", "none"), default="full", help="what the card tells")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of training and retraining")
    parser.add_argument("--examples", type=int, default=6000, help="training images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="show the libraries' bars, losses and warnings")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with Terminal(args.verbose, libraries=["transformers", "datasets", "huggingface_hub"]) as terminal:
        measure_and_push(args, terminal)


if __name__ == "__main__":
    main()
