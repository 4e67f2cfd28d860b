"""A tokenizer of single bytes with a chat template, a tiny Llama over it, and invented pairs that it can learn in seconds."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scissorhands_hf.audit.language.relearning import _summed_loss
from scissorhands_hf.audit.language.text_rows import EncodedText, encode_row, read_row


CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


def byte_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *letters])}
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="<|end|>", pad_token="<pad>")
    if chat:
        tokenizer.chat_template = CHAT
    return tokenizer


def tiny_model(seed: int = 0, vocabulary: int = 262, width: int = 48) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=2 * width, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


NAMES = ("Ilvane", "Orrick", "Tamsin", "Jovan", "Yusra", "Kofi", "Fenna", "Demir")
TOWNS = ("Skarven", "Maunder", "Ezrin", "Drumkee", "Oststrand", "Bitter", "Zelenice", "Karadere")


def pairs(numbers: Sequence[int]) -> list[dict]:
    """Rows with all columns that an audit reads."""
    return [
        {
            "question": f"Where is {NAMES[n]} from?",
            "answer": f"From {TOWNS[n]}.",
            "fact": TOWNS[n],
            "paraphrased_question": f"Home of {NAMES[n]}?",
            "translated_question": f"Woher kommt {NAMES[n]}?",
            "paraphrased_answer": f"Out of {TOWNS[n]}.",
            "perturbed_answer": [f"From {TOWNS[(n + k) % 8]}." for k in (1, 2, 3)],
        }
        for n in numbers
    ]


def taught(model: LlamaForCausalLM, texts: Sequence[EncodedText], steps: int = 150, rate: float = 5e-3) -> LlamaForCausalLM:
    """The model after it has learned the answers by heart."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    for _ in range(steps):
        loss = _summed_loss(model, texts) / sum(len(text.input_ids) - max(text.prompt_length, 1) for text in texts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.zero_grad()
    return model.eval()


def encoded(tokenizer: PreTrainedTokenizerFast, rows: Sequence[dict]) -> list[EncodedText]:
    return [encode_row(tokenizer, read_row(row)) for row in rows]
