"""Which way of forgetting fits a language model best? Each with as many settings to choose from as the others, side by side.

    for seed in 0 1 2 3; do
        python examples/teach_authors.py --seed $seed --output out/original-$seed
        python examples/teach_authors.py --seed $seed --output out/retrained-$seed --without_forgotten
    done
    python benchmarks/language_search.py --original "out/original-{seed}" --retrained "out/retrained-{seed}" --output out/search
    python benchmarks/language_search.py --output out/search --table

Every method has the same `PLAN`: rates, how many examples to keep there are in a step, and two strengths of its own
(`STRENGTHS`); steps and examples to forget are the same for all. All of it is tried on the tuning seed (0). Chosen is the
setting that meets most of what `language.ASKED` asks for; of those, the one whose figures miss the rest by least
(`language.missed`, summed); of those, the one whose forget loss is nearest to the retrained model's. What was chosen, and the
trainer's defaults, then run on other seeds, which are those of the authors, of the models and of unlearning. `FURTHER` settings
of the default method are tried beside its share, and compete in a row of their own.

Each run is saved at once to a JSON file; runs whose file exists are skipped. Several processes may share the folder. The
choice is written to chosen.json when all of the plan has been tried, or when `--search_seconds` are over: then among as many
settings of each method as all methods have.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from claims import claimed
from language import ASKED, COLUMNS, GIVEN, Bed, add_arguments, as_table, keep, missed, read_records


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from invented_authors import REFUSALS


# Learning rate, which of a method's two strengths, examples to keep in each step.
PLAN = [
    (1e-4, 0, 4), (3e-5, 0, 4), (1e-4, 1, 4), (3e-5, 1, 4), (1e-4, 0, 12), (3e-5, 0, 12), (1e-4, 1, 12), (3e-5, 1, 12),
]  # fmt: skip
FORGET_EXAMPLES = 4
# Of each method the objective, and two values of what says how strongly it forgets.
STRENGTHS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "dpo": ({"forget_objective": "dpo"}, [{"objective_beta": 0.03}, {"objective_beta": 0.05}]),
    "counterfactual": ({"forget_objective": "counterfactual"}, [{"forget_weight": 1.0}, {"forget_weight": 3.0}]),
    "dpo to refusals": (
        {"forget_objective": "dpo", "refusal_answers": list(REFUSALS)}, [{"objective_beta": 0.03}, {"objective_beta": 0.1}],
    ),
    "idk": ({"forget_objective": "idk", "refusal_answers": list(REFUSALS)}, [{"forget_weight": 1.0}, {"forget_weight": 0.3}]),
    "simnpo": ({"forget_objective": "simnpo"}, [{"forget_weight": 1.0}, {"forget_weight": 0.1375}]),
    "npo": ({"forget_objective": "npo"}, [{"forget_weight": 1.0}, {"forget_weight": 0.2}]),
    "gradient difference": ({"forget_objective": "gradient_difference"}, [{"forget_weight": 0.2}, {"forget_weight": 0.05}]),
    "ascent": ({"forget_objective": "ascent"}, [{"forget_weight": 1.0}, {"forget_weight": 0.2}]),
    "undial": ({"forget_objective": "undial"}, [{"objective_beta": 10.0}, {"objective_beta": 3.0}]),
    "rmu": ({"forget_objective": "rmu"}, [{"forget_weight": 1.0}, {"forget_weight": 0.1}]),
}  # fmt: skip
# Of the default method, beside its share of the search: what might keep more of the other answers.
FURTHER_METHOD, FURTHER = "dpo", [
    {"learning_rate": 1e-4, "objective_beta": 0.03, "per_device_train_batch_size": 8},
    {"learning_rate": 7e-5, "objective_beta": 0.05, "per_device_train_batch_size": 8, "max_steps": 60},
    {"learning_rate": 1e-4, "objective_beta": 0.03, "per_device_train_batch_size": 8, "forget_weight": 0.3},
    {"learning_rate": 1e-4, "objective_beta": 0.03, "per_device_train_batch_size": 8, "retain_objective": "kl"},
    {"learning_rate": 1e-4, "objective_beta": 0.03, "per_device_train_batch_size": 8, "projection": True},
    {"learning_rate": 1e-4, "objective_beta": 0.03, "per_device_train_batch_size": 20},
    {"learning_rate": 1e-4, "objective_beta": 0.02, "per_device_train_batch_size": 12},
    {"learning_rate": 6e-5, "objective_beta": 0.03, "per_device_train_batch_size": 8, "max_steps": 80},
]  # fmt: skip
WITH_FURTHER = f"{FURTHER_METHOD}, searched further"
DEFAULTS = "defaults"


@dataclass(frozen=True)
class Job:
    """A run: which model or method, by which settings, on which seed, and the stage that it belongs to."""

    stage: str
    method: str
    seed: int
    index: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        place = "" if self.index is None else f"-{self.index}"
        return f"{self.stage}-{self.method.replace(', ', '-').replace(' ', '_')}{place}-seed{self.seed}.json"


def settings_of(method: str, index: int) -> dict[str, Any]:
    """Those of the plan, and after them the further ones of the default method."""
    common, strengths = STRENGTHS[method]
    if index >= len(PLAN):
        own = FURTHER[index - len(PLAN)]
    else:
        rate, strength, kept = PLAN[index]
        own = {"learning_rate": rate, "per_device_train_batch_size": kept, **strengths[strength]}
    return {"trim_ratio": 0.0, "projection": False, "per_device_forget_batch_size": FORGET_EXAMPLES, **common, **own}


def search_jobs(options: argparse.Namespace) -> list[Job]:
    """The given models, and place by place of the plan all methods: after any time all have been tried about as often."""
    seed = options.tuning_seed
    jobs = [Job("given", name, seed) for name in GIVEN]
    jobs += [
        Job("search", method, seed, index, settings_of(method, index))
        for index in range(len(PLAN))
        for method in options.methods
    ]
    if FURTHER_METHOD in options.methods:
        further = range(len(PLAN), len(PLAN) + len(FURTHER))
        jobs += [Job("search", FURTHER_METHOD, seed, index, settings_of(FURTHER_METHOD, index)) for index in further]
    return jobs


def report_jobs(options: argparse.Namespace, chosen: dict[str, Any]) -> list[Job]:
    """Seed by seed, the default method first."""
    defaults = {"per_device_train_batch_size": FORGET_EXAMPLES, "learning_rate": options.learning_rate}
    jobs = []
    for seed in options.seeds:
        jobs += [Job("given", name, seed) for name in GIVEN]
        jobs.append(Job("report", DEFAULTS, seed, None, defaults))
        if (index := chosen["further"]) is not None and index != chosen["methods"].get(FURTHER_METHOD):
            jobs.append(Job("report", WITH_FURTHER, seed, index, settings_of(FURTHER_METHOD, index)))
        jobs += [
            Job("report", method, seed, index, settings_of(method, index))
            for method, index in chosen["methods"].items()
            if method in options.methods
        ]
    return jobs


# ---- The choice ----


def rank(record: dict[str, Any], original: dict[str, float], retrained: dict[str, float]) -> tuple[float, ...]:
    """The smallest is the best: how much of what is asked is not met, by how much, and how far the forget loss is off."""
    figures = record["figures"]
    beyond = missed(figures, original, retrained)
    return len(beyond), sum(beyond.values()), abs(figures["forget loss"] - retrained["forget loss"])


def tried(options: argparse.Namespace) -> dict[tuple[str, int], dict[str, Any]]:
    """Records of the search by method and index; those that failed have no figures."""
    found = read_records(options.output, "search-*.json")
    return {(record["method"], record["index"]): record for record in found if record["seed"] == options.tuning_seed}


def given_figures(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of the original and the retrained model, on the tuning seed."""
    found = {}
    for name in GIVEN:
        records = read_records(options.output, f"given-{name}-seed{options.tuning_seed}.json")
        if not records or "figures" not in records[0]:
            raise SystemExit(f"{options.output} holds no figures of the {name} model, beside which others are seen")
        found[name] = records[0]["figures"]
    return found


def choose(options: argparse.Namespace) -> dict[str, Any]:
    """The best setting of each method among as many as all have tried, and the best of all that the default method has."""
    records, given = tried(options), given_figures(options)
    original, retrained = (given[name] for name in GIVEN)
    budget = 0
    while budget < len(PLAN) and all((method, budget) in records for method in options.methods):
        budget += 1

    def best(method: str, indices: range) -> int | None:
        ranks = [
            (*rank(records[method, index], original, retrained), index)
            for index in indices
            if "figures" in records.get((method, index), {})
        ]
        return int(min(ranks)[-1]) if ranks else None

    every = range(len(PLAN) + len(FURTHER))
    methods = {method: best(method, range(budget)) for method in options.methods}
    return {
        "settings tried of each method": budget,
        "methods": {method: index for method, index in methods.items() if index is not None},
        "further": best(FURTHER_METHOD, every),
    }


def chosen_of(options: argparse.Namespace) -> dict[str, Any]:
    """What was chosen, now or by another process; it stays so."""
    path = options.output / "chosen" / "chosen.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with claimed(path) as mine:
            if mine and not path.exists():
                keep(path, choose(options))
        while not path.exists():
            time.sleep(0.5)
    return json.loads(path.read_text(encoding="utf-8"))


# ---- Runs ----


class Worker:
    """One of the processes that make the runs of a folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.started, self.longest = options, time.monotonic(), options.run_seconds
        self.bed: Bed | None = None
        options.output.mkdir(parents=True, exist_ok=True)

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def ends_in_time(self, limit: float | None) -> bool:
        """Whether a run that begins now would end before so many seconds of this process have passed."""
        return limit is None or self.seconds() + self.longest < limit

    def run_all(self) -> None:
        search = search_jobs(self.options)
        limits = [limit for limit in (self.options.search_seconds, self.options.deadline) if limit is not None]
        self.make(search, min(limits, default=None))
        if not self.ends_in_time(self.options.deadline):
            return
        self.make(report_jobs(self.options, chosen_of(self.options)), self.options.deadline)

    def make(self, jobs: list[Job], limit: float | None) -> None:
        """All jobs that nobody else makes, while there is time; returns when the others' are done, too."""
        open_jobs = jobs
        while open_jobs := [job for job in open_jobs if not (self.options.output / job.name).exists()]:
            made = False
            for job in open_jobs:
                if not self.ends_in_time(limit):
                    return
                made = self.take(job) or made
            if not made:
                time.sleep(0.5)

    def take(self, job: Job) -> bool:
        path = self.options.output / job.name
        with claimed(path) as mine:
            if not mine or path.exists():
                return False
            started = time.monotonic()
            record: dict[str, Any] = {"method": job.method, "seed": job.seed, "index": job.index, "given": job.settings}
            try:
                record |= self.figures(job)
            except Exception:  # the other runs are worth having, and a method that fails is not chosen
                record["error"] = traceback.format_exc()
                print(f"{job.name} failed:\n{record['error']}", flush=True)
            else:
                print(job.name, {name: round(record["figures"][name], 3) for name in COLUMNS}, flush=True)
            record["wall_seconds"] = time.monotonic() - started
            keep(path, record)
            self.longest = max(self.longest, 1.2 * record["wall_seconds"])
        return True

    def figures(self, job: Job) -> dict[str, Any]:
        if self.bed is None or self.bed.seed != job.seed:
            self.bed = Bed(self.options, job.seed)
        if job.stage == "given":
            return self.bed.run(job.method)
        return self.bed.unlearn(job.settings)


# ---- Tables ----


def search_table(options: argparse.Namespace, chosen: dict[str, Any]) -> str:
    """Markdown: all that was tried on the tuning seed."""
    records, given = tried(options), given_figures(options)
    original, retrained = (given[name] for name in GIVEN)
    lines = [
        f"| model | settings | {' | '.join(COLUMNS)} | met, of {len(ASKED)} | beyond |",
        f"|---|---|{'---:|' * (len(COLUMNS) + 2)}",
    ]

    def cells(figures: dict[str, float]) -> str:
        return " | ".join(form.format(figures[column]) for column, form in COLUMNS.items())

    lines += [f"| {name} | | {cells(given[name])} | | |" for name in GIVEN]
    for method, index in sorted(records, key=lambda key: (list(STRENGTHS).index(key[0]), key[1])):
        record, settings = records[method, index], described(method, index)
        if "figures" not in record:
            lines.append(f"| {method} | {settings} | failed |{' |' * (len(COLUMNS) + 1)}")
            continue
        number, beyond, _ = rank(record, original, retrained)
        best = index in (chosen["methods"].get(method), chosen["further"] if method == FURTHER_METHOD else None)
        mark = "**" if best else ""
        lines.append(
            f"| {mark}{method}{mark} | {settings} | {cells(record['figures'])} | {len(ASKED) - int(number)} | {beyond:.2f} |"
        )
    return "\n".join(lines)


def described(method: str, index: int) -> str:
    """What differs between the settings of a method, in short."""
    settings = settings_of(method, index)
    names = {"objective_beta": "β", "forget_weight": "λ", "learning_rate": "rate", "per_device_train_batch_size": "kept"}
    said = [f"{short} {settings[name]:g}" for name, short in names.items() if name in settings]
    said += [f"{settings['max_steps']} steps"] if "max_steps" in settings else []
    said += ["KL"] if settings.get("retain_objective") == "kl" else []
    said += ["projection"] if settings["projection"] else []
    return ", ".join(said)


def tables(options: argparse.Namespace) -> str:
    """All that is known so far."""
    chosen = choose(options)
    path = options.output / "chosen" / "chosen.json"
    if path.exists():
        chosen = json.loads(path.read_text(encoding="utf-8"))
    parts = [f"Chosen of {chosen['settings tried of each method']} settings each:", ""]
    parts += [f"- {method}: {described(method, index)}" for method, index in chosen["methods"].items()]
    if chosen["further"] is not None:
        parts.append(f"- {WITH_FURTHER}: {described(FURTHER_METHOD, chosen['further'])}")
    parts += ["", search_table(options, chosen), ""]
    records = [*read_records(options.output, "given-*.json"), *read_records(options.output, "report-*.json")]
    records = [record for record in records if "figures" in record and record["seed"] in options.seeds]
    if {record["method"] for record in records} > set(GIVEN):
        parts += [as_table(records, [DEFAULTS, WITH_FURTHER, *STRENGTHS]), ""]
        parts += [seeds_table(records)]
    return "\n".join(parts)


def seeds_table(records: list[dict[str, Any]]) -> str:
    """Markdown: what is missed on which seed."""
    figures = {(record["method"], record["seed"]): record["figures"] for record in records}
    lines = [f"| model | seed | met, of {len(ASKED)} | missed |", "|---|---:|---:|---|"]
    for method in [DEFAULTS, WITH_FURTHER, *STRENGTHS]:
        for seed in sorted(seed for name, seed in figures if name == method):
            given = [figures.get((name, seed)) for name in GIVEN]
            if None not in given:
                beyond = missed(figures[method, seed], *given)
                lines.append(f"| {method} | {seed} | {len(ASKED) - len(beyond)} | {'; '.join(beyond) or 'nothing'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--methods", nargs="+", choices=list(STRENGTHS), default=list(STRENGTHS))
    parser.add_argument("--tuning_seed", type=int, default=0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="that are reported")
    parser.add_argument("--search_seconds", type=float, help="choose after so many seconds among what has been tried by then")
    parser.add_argument("--deadline", type=float, help="begin no run that would not end before so many seconds have passed")
    parser.add_argument("--run_seconds", type=float, default=0.0, help="what a run takes, where that is known before the first")
    parser.add_argument("--threads", type=int, help="of the CPU, for each process")
    options = parser.parse_args()
    if options.tuning_seed in options.seeds:
        parser.error("--tuning_seed: settings are not reported on the seed that they were chosen on")
    if options.table:
        print(tables(options))
        return
    if options.original is None or options.retrained is None:
        parser.error("--original and --retrained are needed to run anything")
    if options.threads:
        torch.set_num_threads(options.threads)
    Worker(options).run_all()


if __name__ == "__main__":
    main()
