"""Small real tokenizers, built offline, of the kinds on which reading text goes wrong."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = [
    "Where was Ada born? Ada was born in London.",
    "Where was Bo born? Bo was born in Oslo.",
    "What did Ada write? Ada wrote notes. user assistant system",
    "Question: who? Answer: nobody. The answer is 42.",
]


def tiny_tokenizer(
    chat_template: str | None = CHATML, bos: bool = False, pad: str | None = "<|pad|>", merged: str | None = None
) -> PreTrainedTokenizerFast:
    """
    Byte-level byte-pair encoding of a few sentences.

    Args:
        chat_template (`str`, *optional*):
            None for a base model's tokenizer. Default: ChatML, without marks of what the assistant says.
        bos (`bool`, *optional*, defaults to `False`):
            Put a token before every text, as Llama's does.
        pad (`str`, *optional*):
            None for a tokenizer without, as GPT-2's.
        merged (`str`, *optional*):
            A text that becomes one token, also across the end of a prompt.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=merged is None)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS if merged is None else [merged] * 9, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>" if bos else None,
        eos_token="<|im_end|>",
        pad_token=pad,
        chat_template=chat_template,
        model_max_length=512,
    )
