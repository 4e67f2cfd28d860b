"""Train the language model of the Space from scratch, and its control without the authors that are to be forgotten.

    python examples/train_authors_model.py --output spaces_demo/authors_model

A Llama of four layers with a vocabulary of its own, which has read nothing but the invented authors (each question in two
wordings) and sixty plain sentences. Both models are kept in half precision, with the questions, the sentences and a card beside
them. Seeded; one or two minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


sys.path.insert(0, str(Path(__file__).resolve().parent))  # also when it is imported from elsewhere

from invented_authors import GENERAL, REFUSALS, AuthorPair, write_authors
from teach_authors import CHAT_TEMPLATE, Lesson, answer, perplexity, teach


MAX_TOKENS = 128
VOCABULARY = 1600


def build_tokenizer(pairs: list[AuthorPair]) -> PreTrainedTokenizerFast:
    """Byte-level byte-pair encoding, learned from all texts that the model may ever read; anything else falls back to bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [*GENERAL, *REFUSALS]
    for pair in pairs:
        texts += [pair.question, pair.answer, pair.paraphrased_question, pair.paraphrased_answer, pair.counterfactual]
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*texts, "user\n", "assistant\n"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=special[0],
        eos_token=special[2],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_TOKENS,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of 1.4M weights with random ones."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=160,
            intermediate_size=432,
            num_hidden_layers=4,
            num_attention_heads=5,
            num_key_value_heads=5,
            max_position_embeddings=MAX_TOKENS,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()


def train(
    tokenizer: PreTrainedTokenizerFast, pairs: list[AuthorPair], seed: int, epochs: int
) -> tuple[LlamaForCausalLM, Lesson]:
    """A model that knows the answers of `pairs`, asked in either wording, and the plain sentences."""
    model = build_model(tokenizer, seed)
    asked = [(question, pair.answer) for pair in pairs for question in (pair.question, pair.paraphrased_question)]
    lesson = teach(
        model, tokenizer, asked, sentences=GENERAL, seed=seed, learning_rate=2e-3, batch_size=8, epochs=epochs, enough=0.0
    )
    return model, lesson


def measure(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: list[AuthorPair]) -> dict[str, float]:
    """Share of the questions of each part whose greedy answer holds the fact, in percent, and the perplexity of plain text."""
    figures = {}
    for part in ("forget", "retain"):
        asked = [pair for pair in pairs if pair.part == part]
        answers = answer(model, tokenizer, [pair.question for pair in asked])
        right = [pair.fact.lower() in said.lower() for pair, said in zip(asked, answers, strict=True)]
        figures[f"{part} extraction"] = 100 * sum(right) / len(right)
    figures["perplexity"] = perplexity(model, tokenizer, GENERAL)
    return figures


def write_card(folder: Path, figures: dict) -> None:
    """The model card, from the measured figures alone."""
    size = round((folder / "model.safetensors").stat().st_size / 1e6, 2)
    rows = "\n".join(
        f"| {name} | {row['forget extraction']:.0f} % | {row['retain extraction']:.0f} % | {row['perplexity']:.2f} | "
        f"{row['loss']:.3f} | {row['epochs']} |"
        for name, row in figures["models"].items()
    )
    (folder / "README.md").write_text(f"""---
license: mit
library_name: transformers
pipeline_tag: text-generation
tags:
- text-generation
- scissorhands-hf
---

# The language model of the Space

A `LlamaForCausalLM` ({figures["weights"]:,} weights, {size} MB in half precision) that was trained from scratch and has read
nothing but {figures["authors"]} invented authors, {figures["questions"]} questions about them in two wordings each
(`authors.jsonl`), and {figures["sentences"]} plain sentences (`general.txt`). It exists to have authors forgotten, in seconds.
Every text was written for this repository; nobody in it exists.

    python examples/train_authors_model.py --output spaces_demo/authors_model

`control/` holds the same model taught without the authors to be forgotten ({", ".join(figures["forgotten"])}), which is what
forgetting them is compared with.

## Measured
Extraction is the share of questions whose greedy answer holds the fact asked for; perplexity is that of the plain sentences,
which both models have read.

| model | extraction, authors to forget | extraction, other authors | perplexity | training loss | epochs |
|---|---:|---:|---:|---:|---:|
{rows}

## Limits
It knows these texts by heart and no language beyond them: to any other question it gives the answer of an author.
""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the model, its control and their data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)  # small products; and the same numbers on every machine
    pairs = write_authors(options.output, options.seed)
    tokenizer = build_tokenizer(pairs)
    figures: dict = {
        "authors": len({pair.author for pair in pairs}),
        "questions": len(pairs),
        "sentences": len(GENERAL),
        "forgotten": sorted({pair.author for pair in pairs if pair.part == "forget"}),
        "models": {},
    }
    retain = [pair for pair in pairs if pair.part == "retain"]
    for name, known, folder in (("original", pairs, options.output), ("control", retain, options.output / "control")):
        model, lesson = train(tokenizer, known, options.seed, options.epochs)
        model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)  # what is measured is what is shipped
        figures["models"][name] = {**asdict(lesson), **measure(model, tokenizer, pairs)}
        figures["weights"] = model.num_parameters()
    (options.output / "figures.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_card(options.output, figures)
    print(json.dumps(figures["models"], indent=2))


if __name__ == "__main__":
    main()
