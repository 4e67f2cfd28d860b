"""Rows in every format, and where the answer lies in their tokens."""

import pytest
from tiny_language import byte_tokenizer

from scissorhands_hf.audit.language.text_rows import TextRow, encode_row, read_row


USER = ({"role": "user", "content": "Who?"},)
CHAT = [*USER, {"role": "assistant", "content": "Me."}]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "Who?", "answer": "Me.", "author": "x"}, TextRow(USER, "Me.")),
        ({"prompt": "Who? ", "completion": "Me."}, TextRow("Who? ", "Me.")),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, TextRow(USER, "Me.")),
        ({"messages": CHAT, "prompt": "not this"}, TextRow(USER, "Me.")),
        ({"instruction": "Who?", "output": "Me.", "input": ""}, TextRow(USER, "Me.")),
        (
            {"instruction": "Who?", "output": "Me.", "input": "them"},
            TextRow(({"role": "user", "content": "Who?\n\nthem"},), "Me."),
        ),
        ({"text": "It was me."}, TextRow("", "It was me.")),
    ],
)  # fmt: skip
def test_formats(row, expected):
    assert read_row(row) == expected


def test_another_column_for_the_question():
    row = {"question": "Who?", "answer": "Me.", "paraphrased_question": "Whom?"}
    assert read_row(row, question="paraphrased_question").question == "Whom?"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"words": "a"}, "'words' is in none of the formats"),
        ({"question": "Who?", "answer": " "}, "'answer' is empty"),
        ({"question": None, "answer": "Me."}, "'question' holds NoneType"),
        ({"messages": CHAT[:1]}, "'messages' has to end in one message of the assistant"),
        ({"messages": CHAT[1:]}, "nothing that it replies to"),
        ({"messages": "Who?"}, "'messages' holds str"),
        ({"prompt": [{"role": "user"}], "completion": "Me."}, "'prompt' holds something else than messages"),
    ],
)
def test_rows_that_cannot_be_read(row, message):
    with pytest.raises(ValueError, match=message):
        read_row(row)


def parts(tokenizer, row, **options):
    text = encode_row(tokenizer, read_row(row), **options)
    end = text.prompt_length + text.answer_length
    return [tokenizer.decode(ids) for ids in (text.prompt_ids, text.answer_ids, text.input_ids[end:])]


def test_the_answer_in_a_chat_template():
    tokenizer = byte_tokenizer()
    assert parts(tokenizer, {"question": "Who?", "answer": "Me."}) == ["<|user|>Who?<|end|>\n<|assistant|>", "Me.", "<|end|>"]
    longer = [{"role": "system", "content": "Me."}, *CHAT, *USER, {"role": "assistant", "content": "Me."}]
    before = "<|system|>Me.<|end|>\n<|user|>Who?<|end|>\n<|assistant|>Me.<|end|>\n<|user|>Who?<|end|>\n<|assistant|>"
    assert parts(tokenizer, {"messages": longer}) == [before, "Me.", "<|end|>"]


def test_what_a_template_puts_before_the_answer_is_not_the_answers():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "(('<think></think>' if message['role'] == 'assistant' else '') + message['content'])"
    )
    before, answer, end = parts(tokenizer, {"question": "Who?", "answer": "Me."})
    assert before.endswith("<|assistant|><think></think>") and (answer, end) == ("Me.", "<|end|>")


def test_a_template_that_changes_the_answer_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content']", "message['content'] | upper")
    with pytest.raises(ValueError, match="chat template changes the answer"):
        parts(tokenizer, {"question": "Who?", "answer": "Me."})


def test_without_a_template_and_texts():
    tokenizer = byte_tokenizer(chat=False)
    assert parts(tokenizer, {"question": "Who?", "answer": "Me."}) == ["Question: Who?\nAnswer:", " Me.", "<|end|>"]
    assert parts(tokenizer, {"prompt": "So, ", "completion": "me"}) == ["So, ", "me", "<|end|>"]
    text = encode_row(tokenizer, read_row({"text": "abc"}))
    assert text.is_text and (text.prompt_length, text.answer_length) == (0, 3)
    with pytest.raises(ValueError, match="no chat_template"):
        parts(tokenizer, {"messages": [CHAT[0], CHAT[1], *USER, {"role": "assistant", "content": "Me."}]})


def test_long_rows_are_cut_at_their_end():
    tokenizer = byte_tokenizer(chat=False)
    assert parts(tokenizer, {"prompt": "So, ", "completion": "me too"}, max_length=6) == ["So, ", "me", ""]
    with pytest.raises(ValueError, match="max_length=4 leaves nothing of the answer"):
        parts(tokenizer, {"prompt": "So, ", "completion": "me too"}, max_length=4)
