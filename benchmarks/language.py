"""Do a language model's authors stay forgotten, and does it still know the others and speak? Methods side by side.

    for seed in 0 1 2; do
        python examples/teach_authors.py --seed $seed --output out/original-$seed
        python examples/teach_authors.py --seed $seed --output out/retrained-$seed --without_forgotten
    done
    python benchmarks/language.py --original "out/original-{seed}" --retrained "out/retrained-{seed}" --output out/language
    python benchmarks/language.py --output out/language --table

Each run of a method with a seed is saved at once to a JSON file of its own; runs whose file exists are skipped, and several
processes may share a folder. The seed is that of the invented authors, of the models that were taught them (`{seed}` in their
paths, which may also stay the same), and of unlearning. Figures are those of `audit_language_model`, on all questions about the
forgotten authors and every n-th about the others; "relearned" is the share of the other forgotten facts that a model gives
after ten steps on a quarter of them; "forget quality" is TOFU's, the p-value of a Kolmogorov-Smirnov test of the truth ratios
against the retrained model's, the lowest over seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from invented_authors import GENERAL, author_pairs, holdout_pairs

from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer
from scissorhands_hf.audit import audit_language_model
from scissorhands_hf.audit.language.answer_scores import score_answers
from scissorhands_hf.audit.language.audit_settings import LanguageAuditSettings
from scissorhands_hf.audit.language.benchmark_figures import forget_quality, truth_ratio
from scissorhands_hf.audit.language.language_sets import asked_set


# What differs between methods; the rest is `common_settings`. "defaults" is what the trainer does when it is told nothing.
METHODS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "ascent": {"forget_objective": "ascent", "trim_ratio": 0.0, "projection": False, "forget_weight": 0.2},
    "gradient difference": {"forget_objective": "gradient_difference", "trim_ratio": 0.0, "projection": False},
    "npo": {"forget_objective": "npo", "trim_ratio": 0.0, "projection": False},
    "simnpo": {"forget_objective": "simnpo", "trim_ratio": 0.0, "projection": False},
    "rmu": {"forget_objective": "rmu", "trim_ratio": 0.0, "projection": False},
    "undial": {"forget_objective": "undial", "trim_ratio": 0.0, "projection": False},
    "counterfactual": {"forget_objective": "counterfactual", "trim_ratio": 0.0, "projection": False},
    "counterfactual, trimmed": {
        "forget_objective": "counterfactual", "trim_ratio": 0.001, "saliency": "relative", "projection": False,
    },
}  # fmt: skip
GIVEN = ("original", "retrained")
COLUMNS = {
    "forget loss": "{:.2f}",
    "forget extraction": "{:.0f}",
    "paraphrased extraction": "{:.0f}",
    "retain extraction": "{:.0f}",
    "retain loss": "{:.3f}",
    "perplexity": "{:.4g}",
    "forget repetition": "{:.1f}",
    "relearned extraction": "{:.0f}",
}
# p-value of the comparison of truth ratios with the retrained model's, the lowest over seeds.
QUALITY = "forget quality"
# What is asked of a run beside the original's (o) and the retrained model's (r) figures: how much it misses by, and may.
ASKED: dict[str, tuple[Callable[..., float], float]] = {
    "forget extraction <= 5": (lambda f, o, r: f["forget extraction"], 5.0),
    "forget loss within 0.5 of the retrained": (lambda f, o, r: abs(f["forget loss"] - r["forget loss"]), 0.5),
    "retain extraction >= 98 % of the original's": (
        lambda f, o, r: 100 * (1 - f["retain extraction"] / max(o["retain extraction"], 1e-9)), 2.0
    ),
    "perplexity at most 2 % up": (lambda f, o, r: 100 * (f["perplexity"] / o["perplexity"] - 1), 2.0),
    "relearned at most 10 points above the retrained": (
        lambda f, o, r: f["relearned extraction"] - r["relearned extraction"], 10.0
    ),
    "repetition within 2 points of the original's": (lambda f, o, r: abs(f["forget repetition"] - o["forget repetition"]), 2.0),
}  # fmt: skip


def missed(figures: dict[str, float], original: dict[str, float], retrained: dict[str, float]) -> dict[str, float]:
    """Of what is asked and not met, how far beyond its limit the figure is, in units of the limit."""
    beyond = {name: amount(figures, original, retrained) / limit - 1 for name, (amount, limit) in ASKED.items()}
    return {name: value for name, value in beyond.items() if not value <= 1e-9}


class Bed:
    """The authors of a seed, and models that know all or all but two of them."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self.options, self.seed = options, seed
        self.authors_seed = seed if options.authors_seed is None else options.authors_seed
        pairs = author_pairs(self.authors_seed)
        rows = [dataclasses.asdict(pair) for pair in pairs]
        self.sets = {part: [row for row in rows if row["part"] == part] for part in ("forget", "retain")}
        self.unseen = [dataclasses.asdict(pair) for pair in holdout_pairs(self.authors_seed)]
        self.tokenizer = AutoTokenizer.from_pretrained(self.path("original"))

    def path(self, name: str) -> str:
        return getattr(self.options, name).format(seed=self.seed)

    def load(self, name: str) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(self.path(name), dtype=torch.float32).to(device_of(self.options))

    def measure(self, model: PreTrainedModel) -> dict[str, Any]:
        options, started = self.options, time.perf_counter()
        left_out = () if options.full else ("perturbed_answer", "paraphrased_answer", "translated_question")
        asked = {
            part: [{name: value for name, value in row.items() if name not in left_out} for row in rows]
            for part, rows in self.sets.items()
        }
        report = audit_language_model(
            model,
            self.tokenizer,
            forget=asked["forget"],
            retain=asked["retain"][:: options.every],
            general=GENERAL,
            retrained=self.path("retrained") if options.full else None,
            batch_size=options.audit_batch_size,
            max_new_tokens=options.max_new_tokens,
            rounding=options.rounding,
            relearn_learning_rate=options.relearn_learning_rate,
            examples=3,
        )
        return {
            "figures": report.metrics["unlearned"],
            "truth_ratios": self.truth_ratios(model),
            "answers": [dataclasses.asdict(example) for example in report.examples],
            "audit_seconds": time.perf_counter() - started,
        }

    def truth_ratios(self, model: PreTrainedModel) -> list[float]:
        """Of each question about the forgotten authors, for the forget quality."""
        asked = asked_set("forget", self.sets["forget"], self.tokenizer, LanguageAuditSettings.max_length)
        right, wrong = (
            score_answers(model, texts, self.options.audit_batch_size)
            for texts in (asked.right, [one for few in asked.wrong for one in few])
        )
        scores = iter(wrong)
        return [truth_ratio(one, [next(scores) for _ in few]) for one, few in zip(right, asked.wrong, strict=True)]

    def run(self, method: str) -> dict[str, Any]:
        """A model that is measured as it is given, or that a method has gone over before."""
        if method in GIVEN:
            return self.measure(self.load(method))
        return self.unlearn(METHODS[method])

    def unlearn(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the original comes to by these settings, beside the common ones."""
        with tempfile.TemporaryDirectory() as folder:
            args = ScissorhandsConfig(output_dir=folder, **(self.common_settings() | settings))
            trainer = ScissorhandsTrainer(
                model=self.load("original"),
                args=args,
                train_dataset=Dataset.from_list(self.sets["retain"]),
                forget_dataset=Dataset.from_list(self.sets["forget"]),
                # By which ascent knows where to stop.
                eval_dataset={"unseen": Dataset.from_list(self.unseen)} if args.forget_objective == "ascent" else None,
                processing_class=self.tokenizer,
            )
            trainer.train()
            report = trainer.report()
        # With bf16 the trainer leaves the model computing by it, which the others are not measured by.
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        return {
            "settings": report.settings,
            "trimmed": report.trim.get("trimmed", 0),
            "history": report.history,
            "seconds": report.seconds,
            "steps": args.max_steps,
            "batch": [args.per_device_train_batch_size, args.forget_batch_size],
            "learning_rate": args.learning_rate,
            **self.measure(model),
        }

    def common_settings(self) -> dict[str, Any]:
        options = self.options
        return {
            "seed": self.seed,
            "max_steps": options.steps,
            "learning_rate": options.learning_rate,
            "per_device_train_batch_size": options.batch_size,
            "weight_decay": 0.0,
            "bf16": options.bf16,
            "use_cpu": device_of(options) == "cpu",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "logging_steps": 5,
            "divergence_factor": math.inf,  # a ruined model is to be measured, too
        }


def device_of(options: argparse.Namespace) -> str:
    return "cpu" if options.cpu or not torch.cuda.is_available() else "cuda"


def file_of(output: Path, method: str, seed: int) -> Path:
    return output / f"{method.replace(', ', '-').replace(' ', '_')}-{seed}.json"


def keep(path: Path, record: dict[str, Any]) -> None:
    """Write a record, all of it or nothing."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.rename(path)


def run_all(options: argparse.Namespace) -> None:
    """All runs that are not there yet, seed by seed."""
    options.output.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        bed = None
        for method in [*GIVEN, *options.methods]:
            path = file_of(options.output, method, seed)
            if path.exists():
                continue
            bed = bed or Bed(options, seed)
            given = measured_already(options, method)
            record = {"method": method, "seed": seed, "model": bed.path("original"), **(given or bed.run(method))}
            keep(path, record)
            print(method, seed, {name: round(record["figures"][name], 3) for name in COLUMNS}, flush=True)


def measured_already(options: argparse.Namespace, method: str) -> dict[str, Any] | None:
    """What was measured of a model as it is given that is the same for every seed, as are the authors."""
    if method not in GIVEN or options.authors_seed is None or "{seed}" in options.original + options.retrained:
        return None
    records = read_records(options.output, f"{method}-*.json")
    known = ("method", "seed", "model")
    return {name: value for name, value in records[0].items() if name not in known} if records else None


def read_records(output: Path, files: str = "*.json") -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(output.glob(files))]


def as_table(records: list[dict[str, Any]], methods: Iterable[str]) -> str:
    """Markdown: means over seeds, and how many of what is asked for each method meets with every seed."""
    by_method: dict[str, dict[int, dict[str, float]]] = {}
    ratios: dict[str, dict[int, list[float]]] = {}
    for record in records:
        by_method.setdefault(record["method"], {})[record["seed"]] = record["figures"]
        if "truth_ratios" in record:
            ratios.setdefault(record["method"], {})[record["seed"]] = record["truth_ratios"]
    if any(name not in by_method for name in GIVEN):
        raise SystemExit("there are no runs of the original and the retrained model")
    original, retrained = (by_method[name] for name in GIVEN)
    lines = [
        f"| model | seeds | {' | '.join(COLUMNS)} | {QUALITY} | missed |",
        f"|---|---:|{'---:|' * len(COLUMNS)}---:|---|",
    ]
    for name in [*GIVEN, *(method for method in methods if method in by_method)]:
        runs = {seed: run for seed, run in by_method[name].items() if seed in original and seed in retrained}
        cells = [form.format(statistics.mean(run[column] for run in runs.values())) for column, form in COLUMNS.items()]
        known = ratios.get("retrained", {}) if name not in GIVEN[1:] else {}
        qualities = [forget_quality(own, known[seed]) for seed, own in ratios.get(name, {}).items() if seed in known]
        cells.append(f"{min(qualities):.2g}" if qualities else "")
        beyond = [missed(run, original[seed], retrained[seed]) for seed, run in runs.items()]
        verdict = "" if name in GIVEN else "; ".join(one for one in ASKED if any(one in run for run in beyond)) or "nothing"
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of models, and of how they are unlearned and asked."""
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and run nothing")
    parser.add_argument("--original", help="folder of a model that was taught all authors")
    parser.add_argument("--retrained", help="folder of one that was taught all but the forgotten")
    parser.add_argument("--authors_seed", type=int, help="the same authors for every seed, as of one model")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps, each of as many to forget as to keep")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--relearn_learning_rate", type=float, default=1e-4)
    parser.add_argument("--max_new_tokens", type=int, default=40)
    parser.add_argument("--audit_batch_size", type=int, default=16, help="questions at a time, at most")
    parser.add_argument("--every", type=int, default=6, help="every n-th question about the other authors is asked")
    parser.add_argument("--rounding", nargs="*", type=int, default=[], help="also with weights of 8 or 4 bits")
    parser.add_argument(
        "--full", action="store_true", help="also truth ratio, forget quality and other languages: takes several times as long"
    )
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16")
    parser.add_argument("--cpu", action="store_true", help="also where there is an accelerator")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    if not options.table:
        if options.original is None or options.retrained is None:
            parser.error("--original and --retrained are needed to run anything")
        run_all(options)
    print(as_table(read_records(options.output), METHODS))


if __name__ == "__main__":
    main()
