"""Causal language models from the Hub or a folder: made to forget rows of a text data set, and asked before and after."""

import random
from collections.abc import Callable, Sequence

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..audit.language.answer_figures import extraction, mean_loss, perplexity, repetition
from ..audit.language.answer_scores import score_answers
from ..audit.language.greedy_answers import greedy_answers, in_words
from ..audit.language.row_files import read_rows
from ..audit.language.text_rows import EncodedText, TextRow, encode_row, read_row
from ..audit.untouched import left_as_found
from ..report import UnlearningReport
from .classification import Sets
from .classification_data import ClassificationData
from .run_progress import Reporter, RunProgress
from .scissorhands_config import ScissorhandsConfig
from .scissorhands_trainer import ScissorhandsTrainer
from .stage_callback import StageCallback
from .text_examples import context_length


# Rows of each set that are asked before and after, and tokens of an answer, at most.
ASKED, ANSWER_TOKENS = 200, 64
# Of a text without a question: how much of it is given, as a share, for the model to go on.
_GIVEN = 0.5


def is_language_architecture(architectures: Sequence[str]) -> bool:
    """Whether a model that was saved from these classes is a causal language model without an encoder."""
    return any(name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for name in architectures)


def load_language_model(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer. The weights are float32: in bfloat16 they would not take small updates."""
    return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32), AutoTokenizer.from_pretrained(name)


def general_texts(data: ClassificationData) -> list[str]:
    """The texts of `data.general`, of rows in any known format; none where it is left open."""
    return [] if data.general is None else [read_row(row).answer for row in read_rows(data.general)]


def language_figures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: Sets,
    general: Sequence[str] = (),
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """
    How likely a model finds the answers of each set, and what it says itself.

    Args:
        model, tokenizer (`PreTrainedModel`, `PreTrainedTokenizerBase`):
            Left as they were.
        sets (`Sets`):
            Raw rows by part. Of sets larger than 200 rows so many are asked, the same every time.
        general (`Sequence[str]`, *optional*, defaults to `()`):
            Texts that have nothing to do with them.
        tell (`Callable[[int, int], None]`, *optional*):
            Told how many sets are done, and of how many.

    Returns:
        Of each part the loss (nats per token of the answer), the repetition of greedy answers in percent and, where the rows
        have a column "fact", the percentage of greedy answers that hold it; and the perplexity of the general texts.
    """
    figures: dict[str, float] = {}
    limit, total = context_length(model, tokenizer), len(sets) + bool(general)
    with left_as_found(model), torch.no_grad():
        model.eval()
        for done, (part, rows) in enumerate(sets.items()):
            if tell is not None:
                tell(done, total)
            chosen = [rows[index] for index in sorted(random.Random(0).sample(range(len(rows)), min(len(rows), ASKED)))]
            texts = [encode_row(tokenizer, read_row(row), limit) for row in chosen]
            said = greedy_answers(model, tokenizer, [_prompt(text) for text in texts], ANSWER_TOKENS)
            figures[f"{part} loss"] = mean_loss(score_answers(model, texts))
            if all(row.get("fact") for row in chosen):
                facts = [row["fact"] if isinstance(row["fact"], list) else [row["fact"]] for row in chosen]
                figures[f"{part} extraction"] = extraction(in_words(tokenizer, said), facts)
            figures[f"{part} repetition"] = repetition(said)
        if general:
            texts = [encode_row(tokenizer, TextRow("", text), limit) for text in general]
            figures["perplexity"] = perplexity(score_answers(model, texts))
    if tell is not None:
        tell(total, total)
    return figures


def _prompt(text: EncodedText) -> list[int]:
    given = text.prompt_length
    if text.is_text:
        given = max(1, given + int(_GIVEN * text.answer_length))
    return text.input_ids[:given]


def unlearn_language_model(
    model: PreTrainedModel,
    args: ScissorhandsConfig,
    tokenizer: PreTrainedTokenizerBase,
    sets: Sets,
    choice: str,
    *,
    general: Sequence[str] = (),
    callback: Callable[[RunProgress], None] | None = None,
) -> UnlearningReport:
    """
    Train, save to `args.output_dir`, and report what the model said before and after.

    Args:
        model (`PreTrainedModel`):
            A causal language model, unlearned in place.
        args (`ScissorhandsConfig`):
            Of the run.
        tokenizer (`PreTrainedTokenizerBase`):
            Saved with the model.
        sets (`Sets`):
            Raw rows, "forget", "retain" and perhaps "test", which the model has not seen.
        choice (`str`):
            Says what is forgotten, for the report.
        general (`Sequence[str]`, *optional*, defaults to `()`):
            Texts that have nothing to do with them, for the perplexity.
        callback (`Callable[[RunProgress], None]`, *optional*):
            Told how far the run is, in the stages "original", "sensitivity", "repair" and "unlearned"; what it raises ends
            the run. With one, losses are not printed.

    Returns:
        The report, also saved beside the model by the main process.
    """
    reporter = Reporter(callback)
    _check_rows(sets)
    trainer = ScissorhandsTrainer(
        model=model,
        args=args,
        train_dataset=sets["retain"],
        forget_dataset=sets["forget"],
        eval_dataset={part: rows for part, rows in sets.items() if part not in ("retain", "forget")} or None,
        processing_class=tokenizer,
        callbacks=[StageCallback(reporter.tell)],
    )
    if callback is not None:
        trainer.remove_callback(PrinterCallback)

    def measure(stage: str) -> dict[str, float]:
        # After training in mixed precision the model computes by it; before, it would not, and the figures would be others.
        with trainer.accelerator.autocast():
            return language_figures(
                trainer.model, tokenizer, sets, general, lambda done, total: reporter.tell(stage, done, total)
            )

    before = measure("original")
    trainer.train()
    after = measure("unlearned")
    trainer.save_model()
    report = trainer.report()
    report.metrics |= {"original": before, "unlearned": after}
    sizes = ", ".join(f"{len(rows)} {part}" for part, rows in sets.items())
    asked = f"at most {ASKED} of each" if any(len(rows) > ASKED for rows in sets.values()) else "all of them"
    report.notes.append(f"Forgotten: {choice}. Of {sizes} rows, {asked} were asked.")
    if trainer.is_world_process_zero():
        report.save(args.output_dir)
    return report


def _check_rows(sets: dict[str, Dataset]) -> None:
    """Raise ValueError, naming the set and the row, for a row that cannot be read: before the model is asked anything."""
    for part, rows in sets.items():
        for index, row in enumerate(rows):
            try:
                read_row(row)
            except ValueError as error:
                raise ValueError(f"the {part} examples, row {index}: {error}") from error
