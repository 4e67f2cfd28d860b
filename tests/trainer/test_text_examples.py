"""Raw text in ScissorhandsTrainer: which tokens get a label, in every format, with tokenizers that make it hard."""

import logging
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_tokenizers import CHATML, tiny_tokenizer
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.trainer.language_models import language_figures, unlearn_language_model
from scissorhands_hf.trainer.text_examples import TextCollator, TextEncoder, encode_texts


ASKED = "Where was Ada born?"
SAID = "Ada was born in London."
ROWS = {
    "question": {"question": ASKED, "answer": SAID},
    "messages": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]},
    "prompt": {
        "prompt": [{"role": "user", "content": ASKED}],
        "completion": [{"role": "assistant", "content": SAID}],
    },
    "instruction": {"instruction": "Where was", "input": "Ada born?", "output": SAID},
}


def tiny_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=128, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


def questions(names: tuple[str, ...], **more: list) -> Dataset:
    return Dataset.from_dict(
        {
            "question": [f"Where was {name} born?" for name in names],
            "answer": [f"{name} was born in London." for name in names],
            **more,
        }
    )


def trainer_of(config: Any, tokenizer: Any, retain: Any = None, forget: Any = None, **more: Any) -> ScissorhandsTrainer:
    settings = {name: more.pop(name) for name in ("max_length", "answers_only", "remove_unused_columns") if name in more}
    return ScissorhandsTrainer(
        model=more.pop("model", None) or tiny_model(tokenizer),
        args=config(trim_ratio=0.0, **settings),
        train_dataset=questions(("Bo", "Cy", "Di", "Ed")) if retain is None else retain,
        forget_dataset=questions(("Ada", "Al")) if forget is None else forget,
        processing_class=tokenizer,
        **more,
    )


def labelled(tokenizer: PreTrainedTokenizerBase, encoded: dict[str, list[int]]) -> str:
    return tokenizer.decode([label for label in encoded["labels"] if label != -100])


@pytest.mark.parametrize("name", ROWS)
def test_the_answer_alone_has_labels(name: str) -> None:
    """The template has no marks of what the assistant says ("generation tags"): it must not take them."""
    tokenizer = tiny_tokenizer()
    assert "generation %" not in CHATML
    encoded = TextEncoder(tokenizer)(ROWS[name])
    assert labelled(tokenizer, encoded).removesuffix("\n") == f"{SAID}<|im_end|>"
    question = "Where was\n\nAda born?" if name == "instruction" else ASKED
    assert tokenizer.decode(encoded["input_ids"]).startswith(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
    assert len(encoded["input_ids"]) == len(encoded["labels"]) == len(encoded["attention_mask"])


def test_plain_text_has_labels_throughout() -> None:
    tokenizer = tiny_tokenizer(chat_template=None)
    encoded = TextEncoder(tokenizer)({"text": SAID})
    assert encoded["labels"] == encoded["input_ids"] == tokenizer(SAID)["input_ids"]


@pytest.mark.parametrize("bos", [True, False])
def test_plain_prompt_and_completion(bos: bool) -> None:
    tokenizer = tiny_tokenizer(chat_template=None, bos=bos)
    encoded = TextEncoder(tokenizer)({"prompt": "Ada was born in", "completion": " London."})
    assert labelled(tokenizer, encoded) == " London.<|im_end|>"
    assert encoded["input_ids"].count(tokenizer.convert_tokens_to_ids("<s>")) == int(bos)
    assert encoded["input_ids"][-1] == tokenizer.eos_token_id


def test_a_token_across_the_end_of_the_prompt() -> None:
    """Prompt and answer together may begin with other tokens than the prompt alone: the model is asked with the latter."""
    tokenizer = tiny_tokenizer(chat_template=None, merged="in London")
    together, alone = tokenizer("in London")["input_ids"], tokenizer("in")["input_ids"]
    assert len(together) == 1 and together[: len(alone)] != alone
    encoded = TextEncoder(tokenizer)({"prompt": "in", "completion": " London"})
    assert encoded["input_ids"][: len(alone)] == alone
    assert labelled(tokenizer, encoded) == " London<|im_end|>"


def test_earlier_answers_of_a_conversation_count() -> None:
    tokenizer = tiny_tokenizer()
    turns = [("user", ASKED), ("assistant", SAID), ("user", "What did Ada write?"), ("assistant", "Ada wrote notes.")]
    encoded = TextEncoder(tokenizer)({"messages": [{"role": role, "content": content} for role, content in turns]})
    assert labelled(tokenizer, encoded).replace("\n", "") == f"{SAID}<|im_end|>Ada wrote notes.<|im_end|>"


def test_answers_only_can_be_switched_off() -> None:
    encoded = TextEncoder(tiny_tokenizer(), answers_only=False)(ROWS["question"])
    assert encoded["labels"] == encoded["input_ids"]


def test_another_answer_is_encoded_after_the_same_prompt() -> None:
    tokenizer = tiny_tokenizer()
    encoded = TextEncoder(tokenizer)({**ROWS["question"], "counterfactual": "Ada was born in Oslo."})
    prompt = encoded["labels"].count(-100)
    assert encoded["counterfactual_input_ids"][:prompt] == encoded["input_ids"][:prompt]
    assert tokenizer.decode(encoded["counterfactual_labels"][prompt:]).startswith("Ada was born in Oslo.<|im_end|>")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["<|pad|>", None, "<|im_end|>"])
def test_padding_has_no_label_and_ends_keep_theirs(side: str, pad: str | None) -> None:
    tokenizer = tiny_tokenizer(pad=pad)
    tokenizer.padding_side = side
    encode = TextEncoder(tokenizer)
    rows = [encode(ROWS["question"]), encode({"question": "Who?", "answer": "Bo."})]
    batch = TextCollator(tokenizer)(rows)
    assert batch["labels"].shape == batch["input_ids"].shape == batch["attention_mask"].shape
    for index, row in enumerate(rows):
        kept = batch["attention_mask"][index].bool()
        assert batch["input_ids"][index][kept].tolist() == row["input_ids"]
        assert batch["labels"][index][kept].tolist() == row["labels"]
        assert (batch["labels"][index][~kept] == -100).all()
        assert tokenizer.eos_token_id in batch["labels"][index]
    assert tokenizer.pad_token == pad


@pytest.mark.parametrize("kind", ["datasets", "list"])
def test_a_raw_data_set_is_all_that_is_needed(kind: str, config) -> None:
    tokenizer = tiny_tokenizer()
    retain, forget = (
        questions(("Bo", "Cy", "Di", "Ed"), author=["b", "c", "d", "e"]),
        questions(("Ada", "Al"), author=["a", "a"]),
    )
    if kind == "list":
        retain, forget = list(retain), list(forget)
    trainer = trainer_of(config, tokenizer, retain, forget, eval_dataset={"retain": retain, "forget": forget})
    batch = trainer.probe_batch("forget")
    assert tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100]).startswith("Ada was born in London.")
    assert trainer.forget_dataset["author"] == ["a", "a"]  # other columns stay, for whoever asks for them
    before = trainer.evaluate()
    trainer.train()
    assert trainer.evaluate()["eval_forget_loss"] != before["eval_forget_loss"]
    assert trainer.evaluate(retain)["eval_loss"] == pytest.approx(trainer.evaluate()["eval_retain_loss"])


def test_without_removing_columns_texts_do_not_reach_the_model(config) -> None:
    trainer = trainer_of(config, tiny_tokenizer(), remove_unused_columns=False)
    trainer.train()
    assert set(trainer.probe_batch()) == {"input_ids", "attention_mask", "labels"}


def test_what_is_cut_off_is_said(config, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tiny_tokenizer()
    long = Dataset.from_dict({"text": ["Ada was born in London. " * 40, "Bo."]})
    with caplog.at_level(logging.WARNING):
        trainer = trainer_of(config, tokenizer, forget=long, max_length=24)
    assert "1 of the 2 rows of forget_dataset are longer than max_length=24 tokens" in caplog.text
    assert len(trainer.forget_dataset[0]["input_ids"]) == 24
    # The model's positions are the limit where none is given.
    assert len(trainer_of(config, tokenizer, forget=long).forget_dataset[0]["input_ids"]) == 128


def test_a_prompt_that_fills_max_length_is_refused(config) -> None:
    with pytest.raises(ValueError, match="forget_dataset, row 0: max_length=8 leaves nothing of an answer after a prompt of"):
        trainer_of(config, tiny_tokenizer(), retain=Dataset.from_dict({"text": ["Bo."] * 4}), max_length=8)


def test_a_row_that_cannot_be_read_is_named(config) -> None:
    forget = Dataset.from_dict({"question": ["Who?", "Where?"], "answer": ["Ada.", " "]})
    with pytest.raises(ValueError, match="forget_dataset, row 1: 'answer' is empty"):
        trainer_of(config, tiny_tokenizer(), forget=forget)


def test_unknown_columns_are_named_with_what_is_wanted(config) -> None:
    forget = Dataset.from_dict({"frage": ["Wo?"] * 2, "antwort": ["Hier."] * 2})
    with pytest.raises(ValueError, match=r"train_dataset has the columns frage, antwort\. .*question and answer.*Rename"):
        trainer_of(
            config, tiny_tokenizer(), retain=forget.add_column("n", [1, 2]).remove_columns("n"), forget=questions(("Ada",))
        )


def test_text_without_a_tokenizer_is_refused(config) -> None:
    with pytest.raises(ValueError, match=r"processing_class is a NoneType.*AutoTokenizer"):
        trainer_of(config, None, model=tiny_model(tiny_tokenizer()))


def test_encoded_sets_stay_as_they_are(config) -> None:
    rows = {"input_ids": [[5, 6, 7]] * 4, "labels": [[-100, 6, 7]] * 4, "attention_mask": [[1, 1, 1]] * 4}
    retain, forget = Dataset.from_dict(rows), Dataset.from_dict({name: values[:2] for name, values in rows.items()})
    trainer = trainer_of(config, tiny_tokenizer(), retain, forget)
    assert trainer.train_dataset is retain and trainer.forget_dataset is forget


def test_other_models_are_left_alone(config) -> None:
    model = T5ForConditionalGeneration(T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=3, num_heads=2))
    with pytest.raises(ValueError, match="none of the columns that T5ForConditionalGeneration.forward takes"):
        trainer_of(config, tiny_tokenizer(), model=model)


def test_a_collator_of_whole_texts_works_and_is_warned_of(config, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tiny_tokenizer(pad="<|im_end|>")
    with caplog.at_level(logging.WARNING):
        trainer = trainer_of(config, tokenizer, data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False))
    assert "questions and prompts are forgotten and kept like answers" in caplog.text
    assert "takes '<|im_end|>' for padding, which is also what ends a text" in caplog.text
    batch = trainer.probe_batch("forget")
    kept = (batch["input_ids"] != tokenizer.eos_token_id) & batch["attention_mask"].bool()
    assert torch.equal(batch["labels"] != -100, kept)
    trainer.train()

    caplog.clear()
    text = Dataset.from_dict({"text": ["Ada was born in London.", "Bo was born in Oslo."]})
    other = tiny_tokenizer()
    with caplog.at_level(logging.WARNING):
        trainer_of(config, other, forget=text, data_collator=DataCollatorForLanguageModeling(other, mlm=False))
    assert "DataCollatorForLanguageModeling" not in caplog.text


def test_a_collator_of_the_users_own_reads_the_text_itself(config) -> None:
    tokenizer = tiny_tokenizer()

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = tokenizer([row["answer"] for row in rows], padding=True, return_tensors="pt")
        return {**batch, "labels": batch["input_ids"]}

    trainer = trainer_of(config, tokenizer, data_collator=collate, remove_unused_columns=False)
    assert trainer.forget_dataset.column_names == ["question", "answer"]
    trainer.train()


def test_other_answers_of_raw_text_are_what_is_taught_instead(config) -> None:
    tokenizer = tiny_tokenizer()
    forget = questions(("Ada", "Al"), counterfactual=["Ada was born in Oslo.", "Al was born in Oslo."])
    args = config(trim_ratio=0.0, forget_objective="counterfactual")
    trainer = ScissorhandsTrainer(
        model=tiny_model(tokenizer), args=args, train_dataset=questions(("Bo", "Cy", "Di", "Ed")), forget_dataset=forget,
        processing_class=tokenizer,
    )  # fmt: skip
    other = trainer.sets["forget"].batch([0])["other_answer"]
    assert tokenizer.decode(other["labels"][other["labels"] != -100]).startswith("Ada was born in Oslo.")
    trainer.train()


@pytest.mark.parametrize("answers", [["Ada was born in Oslo.", None], [None, "Al was born in Oslo."]])
@pytest.mark.parametrize("objective", [None, "dpo"])
def test_a_row_without_another_answer_is_named(config, answers, objective) -> None:
    tokenizer = tiny_tokenizer()
    args = config(trim_ratio=0.0, forget_objective=objective)
    where = rf"forget_dataset\[{answers.index(None)}\] has no other answer" if objective else "not all examples have one"
    with pytest.raises(ValueError, match=where):
        ScissorhandsTrainer(
            model=tiny_model(tokenizer), args=args, train_dataset=questions(("Bo", "Cy", "Di", "Ed")),
            forget_dataset=questions(("Ada", "Al"), counterfactual=answers), processing_class=tokenizer,
        )  # fmt: skip


def test_other_answers_that_only_what_is_forgotten_has_do_no_harm_to_what_is_kept(config) -> None:
    tokenizer = tiny_tokenizer()
    for kept in ([None] * 4, ["Bo was born in Oslo.", None, None, None]):
        trainer = ScissorhandsTrainer(
            model=tiny_model(tokenizer), args=config(trim_ratio=0.0),
            train_dataset=questions(("Bo", "Cy", "Di", "Ed"), counterfactual=kept),
            forget_dataset=questions(("Ada", "Al"), counterfactual=["Ada was born in Oslo.", "Al was born in Oslo."]),
            processing_class=tokenizer,
        )  # fmt: skip
        assert trainer.objective.name == "dpo"
        trainer.train()
    assert not any(name.startswith("counterfactual_") for name in encode_texts(
        "train_dataset", questions(("Bo",), counterfactual=[None]), TextEncoder(tokenizer)
    ).column_names)  # fmt: skip


def test_figures_before_and_after_are_measured_in_the_same_precision(config, tmp_path) -> None:
    """Trainer leaves a model of mixed precision computing by it: without learning, nothing may have changed."""
    tokenizer = tiny_tokenizer()
    sets = {"forget": questions(("Ada", "Al")), "retain": questions(("Bo", "Cy", "Di", "Ed"))}
    args = config(trim_ratio=0.0, bf16=True, learning_rate=0.0, max_steps=1, save_strategy="no")
    report = unlearn_language_model(tiny_model(tokenizer), args, tokenizer, sets, "some", general=["A text."])
    exact = language_figures(tiny_model(tokenizer), tokenizer, sets, ["A text."])
    for name in ("forget loss", "retain loss", "perplexity"):
        before, after = (report.metrics[model][name] for model in ("original", "unlearned"))
        assert before == pytest.approx(after, rel=1e-6) and before == pytest.approx(exact[name], rel=0.05)
        assert before != exact[name]
