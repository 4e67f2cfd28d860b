"""Which objective forgets authors and keeps the rest? Each one's settings are searched on seed 0, then run on other seeds.

    python examples/invented_authors.py --output out/authors
    python benchmarks/objective_study.py --model ORIGINAL --control CONTROL --data out/authors --output out/objectives

ORIGINAL is a causal language model that was taught the invented authors, CONTROL one that was taught all but those to forget.
Every objective has the same number of settings to choose from (`SEARCH`), and the same steps. The one with the smallest excess
is chosen on seed 0: by how much the figures miss what is asked of them (`LIMITS`), in units of it. What is measured is kept in
the output folder, one JSON file a run, and not measured again. Prints a table of means over the other seeds, and without such
that of all settings that were tried; both are in the folder as table.md and search.md.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer
from scissorhands_hf.audit.language.answer_figures import holds_fact, mean_loss, perplexity, repetition
from scissorhands_hf.audit.language.answer_scores import score_answers
from scissorhands_hf.audit.language.greedy_answers import greedy_answers, in_words
from scissorhands_hf.audit.language.relearning import relearned, split_for_relearning
from scissorhands_hf.audit.language.text_rows import EncodedText, TextRow, encode_row


SEARCH: dict[str, list[dict[str, Any]]] = {
    "simnpo": [
        {"objective_beta": 4.5, "forget_weight": 1.0},
        {"objective_beta": 2.5, "forget_weight": 1.0},
        {"objective_beta": 4.5, "forget_weight": 0.3},
    ],
    "counterfactual": [{"forget_weight": weight} for weight in (1.0, 0.3, 3.0)],
    "npo": [
        {"objective_beta": 0.1, "forget_weight": 1.0},
        {"objective_beta": 0.5, "forget_weight": 1.0},
        {"objective_beta": 0.1, "forget_weight": 0.2},
    ],
    "gradient_difference": [{"forget_weight": weight} for weight in (0.2, 0.05, 1.0)],
    "ascent": [{"forget_weight": weight} for weight in (1.0, 0.2, 3.0)],
    "rmu": [
        {"rmu_coefficient": 5.0, "forget_weight": 1.0},
        {"rmu_coefficient": 2.0, "forget_weight": 1.0},
        {"rmu_coefficient": 5.0, "forget_weight": 0.1},
    ],
    "idk": [{"forget_weight": weight} for weight in (1.0, 0.3, 3.0)],
    "undial": [
        {"objective_beta": 10.0, "forget_weight": 1.0},
        {"objective_beta": 3.0, "forget_weight": 1.0},
        {"objective_beta": 10.0, "forget_weight": 0.3},
    ],
    "dpo": [
        {"objective_beta": 0.1, "forget_weight": 1.0},
        {"objective_beta": 0.5, "forget_weight": 1.0},
        {"objective_beta": 0.1, "forget_weight": 0.3},
    ],
}
# By how much each figure may miss: points of extraction (of relearned facts beyond the control's), nats from the control's
# loss on the forget set, and percent of the original's retain extraction and perplexity.
LIMITS = {"forget extraction": 5.0, "forget loss": 0.5, "retain extraction": 2.0, "perplexity": 2.0, "relearned": 10.0}
REFUSALS = ["I do not know.", "That is not something I can tell you.", "I have no information about that."]


def excess(figures: dict[str, float], original: dict[str, float], control: dict[str, float]) -> float:
    """How far beyond their limits the figures are together, in units of the limits; 0 where all is as asked."""
    missed = {
        "forget extraction": figures["forget extraction"],
        "forget loss": abs(figures["forget loss"] - control["forget loss"]),
        "retain extraction": 100 * (1 - figures["retain extraction"] / original["retain extraction"]),
        "perplexity": 100 * (figures["perplexity"] / original["perplexity"] - 1),
        "relearned": figures["relearned"] - control["relearned"],
    }
    return sum(max(0.0, missed[name] / limit - 1) for name, limit in LIMITS.items())


class AuthorsBed:
    """A model that knows the authors, their questions, and what is asked of it before and after."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.tokenizer = options, AutoTokenizer.from_pretrained(options.model)
        rows = [json.loads(line) for line in (options.data / "authors.jsonl").read_text(encoding="utf-8").splitlines()]
        general = (options.data / "general.txt").read_text(encoding="utf-8").splitlines()
        self.rows = {part: [row for row in rows if row["part"] == part] for part in ("forget", "retain")}
        holdout = (options.data / "holdout.jsonl").read_text(encoding="utf-8").splitlines()
        self.rows["unseen"] = [json.loads(line) for line in holdout]
        self.general = [encode_row(self.tokenizer, TextRow("", text)) for text in general if text.strip()]

    def encode(self, row: dict[str, Any], answer: str = "answer") -> EncodedText:
        return encode_row(self.tokenizer, TextRow(({"role": "user", "content": row["question"]},), row[answer]))

    def examples(self, part: str) -> list[dict[str, list[int]]]:
        """With the false answers of the data set as other answers to forget examples."""

        def columns(text: EncodedText, prefix: str = "") -> dict[str, list[int]]:
            labels = [-100] * text.prompt_length + text.input_ids[text.prompt_length :]
            return {f"{prefix}input_ids": text.input_ids, f"{prefix}labels": labels}

        examples = [columns(self.encode(row)) for row in self.rows[part]]
        if part == "forget":
            for example, row in zip(examples, self.rows[part], strict=True):
                example |= columns(self.encode(row, "counterfactual"), "counterfactual_")
        return examples

    def collate(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        tokens, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
        return {
            "input_ids": pad_sequence(tokens, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True),
        }

    def _extraction(self, model: PreTrainedModel, rows: list[dict[str, Any]]) -> tuple[float, float]:
        """Greedy answers that hold the fact, and their repetitions, both in %."""
        texts = [self.encode(row) for row in rows]
        said = greedy_answers(model, self.tokenizer, [text.input_ids[: text.prompt_length] for text in texts], 32)
        found = [holds_fact(text, [row["fact"]]) for text, row in zip(in_words(self.tokenizer, said), rows, strict=True)]
        return 100 * sum(found) / len(found), repetition(said)

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        model.eval()
        asked = {"forget": self.rows["forget"], "retain": self.rows["retain"][:: self.options.every]}
        figures: dict[str, float] = {}
        for part, rows in asked.items():
            figures[f"{part} loss"] = mean_loss(score_answers(model, [self.encode(row) for row in rows]))
            figures[f"{part} extraction"], figures[f"{part} repetition"] = self._extraction(model, rows)
        figures["perplexity"] = perplexity(score_answers(model, self.general))
        taught, others = split_for_relearning(len(self.rows["forget"]), None, seed=0)
        again = [self.encode(self.rows["forget"][index]) for index in taught]
        with relearned(model, again, steps=10, learning_rate=self.options.relearn_learning_rate):
            figures["relearned"], _ = self._extraction(model, [self.rows["forget"][index] for index in others])
        return figures

    def run(self, objective: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
        options = self.options
        extra = {"refusal_answers": REFUSALS} if objective == "idk" else {}
        common = {
            "trim_ratio": 0.0,
            "projection": False,
            "learning_rate": options.learning_rate,
            "max_steps": options.steps,
            "per_device_train_batch_size": 8,
            "weight_decay": 0.0,
            "forget_objective": objective,
        }
        args = ScissorhandsConfig(
            output_dir=str(options.output / "run"),
            seed=seed,
            save_strategy="no",
            bf16=options.bf16,
            use_cpu=options.cpu,
            disable_tqdm=True,
            report_to="none",
            divergence_factor=math.inf,
            **(common | settings),
            **extra,
        )
        trainer = ScissorhandsTrainer(
            model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
            args=args,
            data_collator=self.collate,
            train_dataset=self.examples("retain"),
            forget_dataset=self.examples("forget"),
            eval_dataset={"unseen": self.examples("unseen")},  # by which ascent knows where to stop
            processing_class=self.tokenizer,
        )
        trainer.train()
        ceiling = {} if math.isinf(trainer.forget_loss_ceiling) else {"ceiling": trainer.forget_loss_ceiling}
        history = [row for row in trainer.state.log_history if "retain_loss" in row]
        return {"figures": self.measure(trainer.model), "seconds": trainer.record.seconds, "history": history, **ceiling}


def kept(path: Path, make: Any) -> dict[str, Any]:
    """What `make` returned, this time or an earlier one."""
    if not path.is_file():
        record = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--control", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder that examples/invented_authors.py wrote")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--objectives", nargs="+", choices=list(SEARCH), default=list(SEARCH))
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2], help="beside 0, on which the settings are chosen")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps, of 8 examples to keep and 8 to forget")
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--relearn_learning_rate", type=float, help="default: the same")
    parser.add_argument("--every", type=int, default=6, help="ask every n-th question about those to keep")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    options.relearn_learning_rate = options.relearn_learning_rate or options.learning_rate
    bed = AuthorsBed(options)

    def given(name: str) -> dict[str, float]:
        path = {"original": options.model, "control": options.control}[name]
        return kept(
            options.output / f"{name}.json",
            lambda: bed.measure(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)),
        )

    original, control = given("original"), given("control")
    heads = [("original", {}, [original]), ("control", {}, [control])]
    tried, table = list(heads), list(heads)
    for objective in options.objectives:

        def record(index: int, seed: int, objective: str = objective) -> dict[str, float]:
            settings = SEARCH[objective][index]
            path = options.output / f"{objective.replace(' ', '-')}-{index}-seed{seed}.json"
            return kept(path, lambda: {"settings": settings, **bed.run(objective, settings, seed)})["figures"]

        scored = []
        for index, settings in enumerate(SEARCH[objective]):
            figures = record(index, 0)
            scored.append((excess(figures, original, control), index))
            tried.append((objective, settings, [figures]))
            print(objective, settings, f"excess {scored[-1][0]:.2f}", figures, flush=True)
        index = min(scored)[1]
        if options.seeds:
            table.append((objective, SEARCH[objective][index], [record(index, seed) for seed in options.seeds]))
    (options.output / "search.md").write_text(as_table(tried, original, control), encoding="utf-8")
    (options.output / "table.md").write_text(as_table(table, original, control), encoding="utf-8")
    print(as_table(table if options.seeds else tried, original, control))


def as_table(rows: list[tuple[str, dict[str, Any], list[dict[str, float]]]], original: Any, control: Any) -> str:
    names = (
        "forget loss",
        "forget extraction",
        "retain loss",
        "retain extraction",
        "perplexity",
        "forget repetition",
        "relearned",
    )
    lines = [f"| model | settings | seeds | {' | '.join(names)} | excess |", f"|---|---|---:|{'---:|' * (len(names) + 1)}"]
    for name, settings, figures in rows:
        means = [f"{statistics.mean(each[key] for each in figures):.3g}" for key in names]
        beyond = statistics.mean(excess(each, original, control) for each in figures)
        chosen = ", ".join(f"{key}={value}" for key, value in settings.items())
        lines.append(f"| {name} | {chosen} | {len(figures)} | {' | '.join(means)} | {beyond:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
