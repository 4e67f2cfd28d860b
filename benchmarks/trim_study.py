"""What may be cut? Ways to choose and to replace weights, before and after repair, on a language model and on a classifier.

    python benchmarks/trim_study.py language --model MODEL --output out/trim-language --seeds 1 2 3
    python benchmarks/trim_study.py classifier --output out/trim-classifier --seeds 1 2 3 --task class

MODEL is a causal language model that was taught the invented authors (examples/teach_authors.py); the classifier is that of the
Space. Each setting is run on each seed; what is measured right after the trim and at the end of the run is kept in the output
folder, one JSON file a run, and those that are there already are not run again; other processes may run other seeds. Prints a
table of means over the seeds.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer
from scissorhands_hf.audit import unlearning_metrics


ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

# Of the middle half of the blocks: where edits of facts are made, and what is left of them by the rest of the network.
MIDDLE_MLP, ATTENTION_OUTPUTS = "middle MLP", "attention outputs"
# trim_ratio is of all trained weights, unless threshold_scope says otherwise.
SCOPE = {"threshold_scope": "reinit"}
SETTINGS: dict[str, dict[str, Any]] = {
    "no trim": {"trim_ratio": 0.0},
    "3 %": {"trim_ratio": 0.03},
    "0.1 %": {"trim_ratio": 0.001},
    "0.001 %": {"trim_ratio": 1e-5},
    "3 % of the scope": {"trim_ratio": 0.03, **SCOPE},
    "3 % of the scope, own scale": {"trim_ratio": 0.03, "reinit_scale": "own", **SCOPE},
    "3 % of each tensor": {"trim_ratio": 0.03, "threshold_scope": "tensor"},
    "relative, 0.1 %": {"trim_ratio": 0.001, "saliency": "relative"},
    "relative, 3 %": {"trim_ratio": 0.03, "saliency": "relative"},
    "relative, 3 % of the scope": {"trim_ratio": 0.03, "saliency": "relative", **SCOPE},
    "relative, 3 % of the scope, own scale": {"trim_ratio": 0.03, "saliency": "relative", "reinit_scale": "own", **SCOPE},
    "relative, 3 % of each tensor": {"trim_ratio": 0.03, "saliency": "relative", "threshold_scope": "tensor"},
    "relative, 3 % of middle MLPs": {"trim_ratio": 0.03, "saliency": "relative", "scope": MIDDLE_MLP, **SCOPE},
    "relative, 3 % of attention outputs": {"trim_ratio": 0.03, "saliency": "relative", "scope": ATTENTION_OUTPUTS, **SCOPE},
    "3 % of the scope, at most 2 x": {"trim_ratio": 0.03, "trim_damage_limit": 2.0, **SCOPE},
    "3 % of the scope, at most 1.2 x": {"trim_ratio": 0.03, "trim_damage_limit": 1.2, **SCOPE},
    "0.1 %, at most 1.1 x": {"trim_ratio": 0.001, "trim_damage_limit": 1.1},
}
# Changes of the recipe that was tuned for the classifier's task.
CLASSIFIER_SETTINGS: dict[str, dict[str, Any]] = {
    "no trim": {"trim_ratio": 0.0},
    "as tuned": {},
    "own scale": {"reinit_scale": "own"},
    "relative": {"saliency": "relative"},
    "relative, own scale": {"saliency": "relative", "reinit_scale": "own"},
    "each tensor": {"threshold_scope": "tensor"},
    "relative, each tensor": {"saliency": "relative", "threshold_scope": "tensor"},
    "at most 1.2 x": {"trim_damage_limit": 1.2},
    "at most 2 x": {"trim_damage_limit": 2.0},
    "at most 10 x": {"trim_damage_limit": 10.0},
    "no recipe": {"recipe": None},
    **{f"no recipe, at most {limit:g} x": {"recipe": None, "trim_damage_limit": limit} for limit in (1.1, 1.2, 1.5, 2.0, 4.0)},
}


def scope_patterns(scope: str, layers: int) -> list[str]:
    """Patterns of `reinit_target_modules` for a Llama."""
    if scope == ATTENTION_OUTPUTS:
        return ["*.self_attn.o_proj.weight"]
    middle = "|".join(str(layer) for layer in range(layers // 4, layers - layers // 4))
    return [rf"re:layers\.({middle})\.mlp\."]


class LanguageBed:
    """The invented authors, of whom two are to be forgotten."""

    settings = SETTINGS

    def __init__(self, options: argparse.Namespace):
        from invented_authors import GENERAL, author_pairs  # its own data

        self.options, self.texts = options, GENERAL
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        pairs = author_pairs(options.author_seed)
        self.pairs = {part: [pair for pair in pairs if pair.part == part] for part in ("forget", "retain")}

    def examples(self, part: str) -> list[dict[str, list[int]]]:
        from teach_authors import lesson_tokens

        rows = [lesson_tokens(self.tokenizer, pair.question, pair.answer) for pair in self.pairs[part]]
        return [{"input_ids": tokens, "labels": labels} for tokens, labels in rows]

    def collate(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        tokens, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
        mask = pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True)
        padded = pad_sequence(labels, batch_first=True, padding_value=-100)
        return {"input_ids": pad_sequence(tokens, batch_first=True), "labels": padded, "attention_mask": mask}

    def trainer(self, settings: dict[str, Any], seed: int) -> ScissorhandsTrainer:
        model = AutoModelForCausalLM.from_pretrained(self.options.model, dtype=torch.float32)
        settings = dict(settings)
        if scope := settings.pop("scope", None):
            settings["reinit_target_modules"] = scope_patterns(scope, model.config.num_hidden_layers)
        args = ScissorhandsConfig(
            output_dir=str(self.options.output / f"run-{seed}"),
            seed=seed,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            learning_rate=self.options.learning_rate,
            max_steps=self.options.steps,
            per_device_train_batch_size=8,
            divergence_factor=1e9,
            **{"trim_damage_limit": math.inf, **settings},
        )
        return ScissorhandsTrainer(
            model=model,
            args=args,
            data_collator=self.collate,
            train_dataset=self.examples("retain"),
            forget_dataset=self.examples("forget"),
        )

    @torch.no_grad()
    def _loss(self, model: Any, rows: list[dict]) -> float:
        total = count = 0
        for start in range(0, len(rows), 10):
            batch = self.collate(rows[start : start + 10])
            labelled = int((batch["labels"][:, 1:] != -100).sum())
            total, count = total + float(model(**batch).loss) * labelled, count + labelled
        return total / count

    def measure(self, trainer: ScissorhandsTrainer, end: bool) -> dict[str, float]:
        """Losses in nats per token and the perplexity of general texts; at the end also the facts in greedy answers, in %."""
        from teach_authors import answer

        model = trainer.model.eval()
        general = [self.tokenizer(text)["input_ids"] for text in self.texts]
        figures = {
            "forget loss": self._loss(model, self.examples("forget")),
            "retain loss": self._loss(model, self.examples("retain")[:: self.options.every]),
            "perplexity": math.exp(min(self._loss(model, [{"input_ids": row, "labels": row} for row in general]), 50)),
        }
        if end:
            for part, every in (("forget", 1), ("retain", self.options.every)):
                asked = self.pairs[part][::every]
                said = answer(model, self.tokenizer, [pair.question for pair in asked])
                right = [pair.fact.lower() in text.lower() for pair, text in zip(asked, said, strict=True)]
                figures[f"{part} extraction"] = 100 * sum(right) / len(right)
        return figures


class ClassifierBed:
    """The shipped classifier, which is to forget the class, or the random tenth of its images, that the seed says."""

    settings = CLASSIFIER_SETTINGS

    def __init__(self, options: argparse.Namespace):
        from spaces_demo import classifier  # its own data lies beside it

        self.options, self.room = options, classifier
        self.train, self.test = classifier.load_images("train"), classifier.load_images("test")

    def trainer(self, settings: dict[str, Any], seed: int) -> ScissorhandsTrainer:
        labels, of_class = self.train.labels, self.options.task == "class"
        tenth = np.random.default_rng(seed).permutation(len(labels)) < len(labels) // 10
        chosen = labels == seed % 10 if of_class else tenth
        test = self.test.where(self.test.labels != seed % 10) if of_class else self.test
        self.sets = {"forget": self.train.where(chosen), "retain": self.train.where(~chosen), "test": test}
        settings = {"recipe": f"fashion-mnist-{self.options.task}", "trim_damage_limit": math.inf, **settings}
        args = ScissorhandsConfig(
            output_dir=str(self.options.output / f"run-{seed}"),
            seed=seed,
            save_strategy="no",
            remove_unused_columns=False,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            divergence_factor=1e9,
            **settings,
        )
        return ScissorhandsTrainer(
            model=self.room.load_classifier(),
            args=args,
            train_dataset=self.sets["retain"],
            forget_dataset=self.sets["forget"],
        )

    def measure(self, trainer: ScissorhandsTrainer, end: bool) -> dict[str, float]:
        """The retain loss on its fixed examples, and UA, RA, TA and MIA in percent."""
        model = trainer.model
        logits = {name: (self.room.predict_logits(model, images), images.labels) for name, images in self.sets.items()}
        return {"retain loss": trainer.measure_retain_loss(), **unlearning_metrics(logits)}


def run(bed: LanguageBed | ClassifierBed, name: str, seed: int) -> dict[str, Any]:
    """What is measured of one setting on one seed: before, right after the trim, and at the end."""
    trainer = bed.trainer(bed.settings[name], seed)
    record: dict[str, Any] = {"setting": name, "seed": seed}
    if name == "no trim":
        record["original"] = bed.measure(trainer, end=True)
    note = trainer.note_trimmed_loss

    def measured() -> dict[str, float]:
        if name != "no trim":
            record["trimmed"] = bed.measure(trainer, end=False)
        return note()

    trainer.note_trimmed_loss = measured
    if bed.options.trim_only:
        trainer.begin_repair()
    else:
        trainer.train()
        record["end"] = bed.measure(trainer, end=True)
    record["trim"] = {key: value for key, value in trainer.trim_report.items() if key != "per_module"}
    record["seconds"] = trainer.record.seconds
    return record


def table(records: list[dict[str, Any]]) -> str:
    """Means over the seeds of every setting."""
    keys = [(stage, key) for stage in ("trimmed", "end") for key in next((r[stage] for r in records if stage in r), {})]
    lines = [
        "| setting | seeds | cut | " + " | ".join(f"{stage}: {key}" for stage, key in keys) + " |",
        "|---|---:|---:|" + "---:|" * len(keys),
    ]
    for name in dict.fromkeys(record["setting"] for record in records):
        runs = [record for record in records if record["setting"] == name]
        cells = []
        for stage, key in keys:
            values = [record[stage][key] for record in runs if key in record.get(stage, {})]
            cells.append(f"{statistics.mean(values):.3g}" if values else "")
        cut = statistics.mean(record["trim"]["trimmed"] for record in runs)
        lines.append(f"| {name} | {len(runs)} | {cut:,.0f} | " + " | ".join(cells) + " |")
    originals = [record["original"] for record in records if "original" in record]
    if originals:
        means = {key: statistics.mean(original[key] for original in originals) for key in originals[0]}
        lines.append("\nOriginal: " + ", ".join(f"{key} {value:.3g}" for key, value in means.items()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bed", choices=("language", "classifier"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", help="folder of the language model that knows the authors")
    parser.add_argument("--author_seed", type=int, default=0, help="of the authors that it was taught")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", nargs="+", help="names of settings; default: all")
    parser.add_argument("--steps", type=int, default=30, help="of the language model's repair")
    parser.add_argument("--learning_rate", type=float, default=5e-5, help="of the language model's repair")
    parser.add_argument("--task", choices=("class", "random"), default="class", help="of the classifier")
    parser.add_argument("--every", type=int, default=4, help="measure every n-th retained question")
    parser.add_argument("--trim_only", action="store_true", help="measure the trim alone, without repair")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    bed = (LanguageBed if options.bed == "language" else ClassifierBed)(options)
    records = []
    for seed in options.seeds:
        for name in options.settings or bed.settings:
            path = options.output / f"{name.replace(' ', '-').replace('%', 'percent').replace(',', '')}-seed{seed}.json"
            if not path.is_file():
                path.write_text(json.dumps(run(bed, name, seed), indent=2) + "\n")
            records.append(json.loads(path.read_text()))
            (options.output / "table.md").write_text(table(records) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
