"""Language models: make the shipped small model forget an author, ask it and others, and measure what is left.

    model = forget_author("Priyanka Yildirand", Path("out/forgotten"))      # a folder with the model, its report and its card
    answers(Path("out/forgotten"), ["Where was Priyanka Yildirand born?"])

The models have 1.5M weights and are run on the CPU: no card is borrowed for them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback

from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer
from scissorhands_hf.audit import audit_language_model
from scissorhands_hf.audit.language.greedy_answers import greedy_answers, in_words
from scissorhands_hf.report import LanguageReport
from scissorhands_hf.report.language_report import AnswerExample
from scissorhands_hf.trainer.run_progress import Reporter, RunProgress
from scissorhands_hf.trainer.stage_callback import StageCallback
from spaces_demo.limits import LONGEST_QUESTION, SEEDS, RefusedError, check_number, check_text
from spaces_demo.models import AUTHORS_FOLDER, author_names, control_authors, read_authors
from spaces_demo.publish import DISCLOSURES, card_of, check_choices, with_pictures


CONTROL_FOLDER = AUTHORS_FOLDER / "control"
# Of the audit: the unlearned model, the original and the control; five parts each.
AUDIT_PARTS = 5
# Those of the small run of benchmarks/language.py, whose figures are in docs/measurements.md.
SETTINGS = {"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 5e-4, "weight_decay": 0.0}
AUDIT = {"max_new_tokens": 24, "rounding": [], "relearn_learning_rate": 5e-4}
AUDIT_PLOT = "audit.png"
EVERY = 12  # Of the questions about other authors, every so many are asked.
SHOWN = 8  # Of these, so many are shown.
ANSWER_TOKENS = 40
# Asked by the audit only where a longer one is wanted.
LEFT_OUT = ("perturbed_answer", "paraphrased_answer", "translated_question")


@dataclass
class ForgottenAuthor:
    """
    What a run did.

    Args:
        name: of the author.
        controlled: whether the control never knew the author, and so was asked and measured, too.
        about, others: questions about the author and about others, with the answers of "original", "unlearned" and perhaps
            "control"; greedy.
        report: of the audit; the control is called "retrained" in it.
        objective: what the author was trained away by.
        trimmed: weights that were re-initialised.
        seconds: of training.
        card: the model's, with its pictures; empty where it is not to be shown.
    """

    name: str
    controlled: bool
    about: list[AnswerExample]
    others: list[AnswerExample]
    report: LanguageReport
    objective: str
    trimmed: int
    seconds: float
    card: str = ""


@lru_cache(maxsize=1)
def load_tokenizer() -> PreTrainedTokenizerBase:
    """Of the model, its control, and all that comes of them."""
    return AutoTokenizer.from_pretrained(AUTHORS_FOLDER)


def load_language_model(folder: Path = AUTHORS_FOLDER) -> PreTrainedModel:
    """A fresh copy in single precision: the caller may change it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


@lru_cache(maxsize=2)
def _shipped_model(folder: Path) -> PreTrainedModel:
    """One of the two shipped ones, kept; nobody changes it."""
    return load_language_model(folder)


def check_author(name: str | None) -> str:
    """
    The name of one of the authors.

    Raises:
        RefusedError: it is nobody's.
    """
    if name not in author_names():
        raise RefusedError(f"The model knows no author {str(name)[:40]!r}. It knows: {', '.join(author_names())}.")
    return name


def question_tokens(question: str | None) -> list[int]:
    """
    A question as the model reads it.

    Raises:
        RefusedError: empty, too long, or with characters that cannot be shown.
    """
    question = check_text(question, "The question", most=LONGEST_QUESTION, example="Where was she born?")
    tokenizer = load_tokenizer()
    turn = [{"role": "user", "content": question}]
    tokens = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"]
    most = tokenizer.model_max_length - ANSWER_TOKENS
    if len(tokens) > most:
        raise RefusedError(f"The question has {len(tokens)} tokens; this small model reads at most {most}. Ask a shorter one.")
    return tokens


def answers(model: Path | PreTrainedModel, questions: Sequence[str]) -> list[str]:
    """
    What a model says: its greedy answers, 40 tokens at most.

    Args:
        model: the model, or its folder.
        questions: one or more, each as :func:`question_tokens` takes them.
    """
    prompts = [question_tokens(question) for question in questions]
    if isinstance(model, Path):
        model = _shipped_model(model) if model in (AUTHORS_FOLDER, CONTROL_FOLDER) else load_language_model(model)
    return in_words(load_tokenizer(), greedy_answers(model, load_tokenizer(), prompts, ANSWER_TOKENS))


def ask_all(question: str, folder: Path, controlled: bool, tell: Callable[[RunProgress], None]) -> dict[str, str]:
    """What the original, the unlearned model in ``folder`` and perhaps the control say, by model."""
    places = {"original": AUTHORS_FOLDER, "unlearned": folder, **({"control": CONTROL_FOLDER} if controlled else {})}
    said = {}
    for number, (kind, place) in enumerate(places.items()):
        tell(RunProgress("ask", number, len(places)))
        (said[kind],) = answers(place, [question])
    return said


def forget_author(
    name: str, folder: Path, *, seed: int = 0, callback: Callable[[RunProgress], None] | None = None
) -> ForgottenAuthor:
    """
    Unlearn an author on a fresh copy of the shipped model, with the trainer's defaults, and measure what that did.

    Args:
        name: one of :func:`~spaces_demo.models.author_names`.
        folder: where the model is left, with its report and what a card needs; nothing is, where the run ends early.
        seed: of the run.
        callback: told how far the run is; what it raises ends the run.

    Raises:
        RefusedError: there is no such author.
    """
    name = check_author(name)
    seed = check_number(seed, "The seed", *SEEDS, whole=True)
    tell = Reporter(callback).tell
    tell("load", 0, 1)
    controlled, rows = name in control_authors(), read_authors()
    forget = [row for row in rows if row["author"] == name]
    retain = [row for row in rows if row["author"] != name]
    # The control does not know both of its authors: what is kept is asked about others alone, of all models alike.
    kept = [row for row in retain if row["author"] not in control_authors()][::EVERY]
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        trainer = _train(name, partial, seed, retain, forget, tell)
        about, others = _asked(trainer.model, controlled, [forget, kept[:: max(1, len(kept) // SHOWN)][:SHOWN]], tell)
        audited = _audit(trainer.model, controlled, forget, kept, tell)
        tell("files", 0, 1)
        trainer.save_model()
        report = trainer.report()
        report.metrics = audited.metrics
        # Of the retain set not everything was asked.
        report.sets |= {f"eval:{part}": size for part, size in audited.sets.items()}
        report.notes += [*audited.notes, *_notes(controlled, forget, kept)]
        report.save(partial)
        audited.plot(partial / AUDIT_PLOT)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    card = with_pictures(card_of(folder, check_choices(None, next(iter(DISCLOSURES)), {})), folder)
    trimmed, seconds = report.trim.get("trimmed", 0), report.seconds.get("train", 0.0)
    objective = report.settings["forget_objective"]
    return ForgottenAuthor(name, controlled, about, others, audited, objective, trimmed, seconds, card)


def _train(name: str, folder: Path, seed: int, retain: list, forget: list, tell: Callable[..., None]) -> ScissorhandsTrainer:
    args = ScissorhandsConfig(
        output_dir=str(folder),
        **SETTINGS,
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        forgotten=f"The invented author {name}: {len(forget)} questions with their answers.",
        language=["en"],
    )
    trainer = ScissorhandsTrainer(
        model=load_language_model(),
        args=args,
        train_dataset=Dataset.from_list(retain),
        forget_dataset=Dataset.from_list(forget),
        processing_class=load_tokenizer(),
        callbacks=[StageCallback(tell)],
    )
    trainer.remove_callback(PrinterCallback)  # the page shows the losses
    trainer.train()
    return trainer


def _asked(
    model: PreTrainedModel, controlled: bool, parts: Sequence[list[dict]], tell: Callable[..., None]
) -> list[list[AnswerExample]]:
    """Of each part its questions with what every model says."""
    asked = {"original": AUTHORS_FOLDER, "unlearned": model, **({"control": CONTROL_FOLDER} if controlled else {})}
    rows, said = [row for part in parts for row in part], {}
    for number, (kind, one) in enumerate(asked.items()):
        tell("ask", number, len(asked))
        said[kind] = answers(one, [row["question"] for row in rows])
    examples = iter(
        AnswerExample(row["question"], row["answer"], {kind: said[kind][place] for kind in asked})
        for place, row in enumerate(rows)
    )
    return [[next(examples) for _ in part] for part in parts]


def _audit(
    model: PreTrainedModel, controlled: bool, forget: list[dict], kept: list[dict], tell: Callable[..., None]
) -> LanguageReport:
    done, total = 0, AUDIT_PARTS * (3 if controlled else 2)

    def progress(kind: str, stage: str) -> None:
        nonlocal done
        tell("audit", min(done, total), total)
        done += 1

    def short(rows: list[dict]) -> list[dict]:
        return [{column: value for column, value in row.items() if column not in LEFT_OUT} for row in rows]

    return audit_language_model(
        model,
        load_tokenizer(),
        forget=short(forget),
        retain=short(kept),
        general=general_sentences(),
        original=AUTHORS_FOLDER,
        retrained=CONTROL_FOLDER if controlled else None,
        dtype="float32",
        progress=progress,
        **AUDIT,
    )


def _notes(controlled: bool, forget: list, kept: list) -> list[str]:
    notes = [
        f"Asked: all {len(forget)} questions about what was forgotten, and {len(kept)} about authors that every model here was "
        "taught; perplexity is that of plain sentences that the models have read."
    ]
    if controlled:
        notes.append(
            "The retrained model was taught neither this author nor one more, by the same script, before; it was measured in "
            "the same way."
        )
    return notes


@lru_cache(maxsize=1)
def general_sentences() -> list[str]:
    """Plain text, beside the model."""
    return (AUTHORS_FOLDER / "general.txt").read_text(encoding="utf-8").splitlines()
