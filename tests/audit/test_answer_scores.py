"""Token scores and greedy answers in batches, against one text at a time and plain Python."""

import math

import pytest
import torch
from tiny_language import byte_tokenizer, encoded, pairs, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, GPT2LMHeadModel, MistralConfig, OPTConfig

from scissorhands_hf.audit.language import answer_scores
from scissorhands_hf.audit.language.answer_scores import score_answers
from scissorhands_hf.audit.language.greedy_answers import greedy_answers
from scissorhands_hf.audit.language.text_rows import EncodedText


def tiny_gpt2():
    """Its places are counted, so padding on the wrong side would be seen."""
    torch.manual_seed(3)
    return GPT2LMHeadModel(GPT2Config(vocab_size=262, n_positions=256, n_embd=32, n_layer=2, n_head=4, eos_token_id=2)).eval()


def tiny_of(config):
    """Weights far from small, so that what a model sees matters."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.2)
    return model.eval()


def tiny_opt():
    """Counts places by its attention mask."""
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return tiny_of(OPTConfig(vocab_size=262, max_position_embeddings=256, eos_token_id=2, pad_token_id=0, **sizes))


def tiny_bloom():
    """Attends by distance."""
    return tiny_of(BloomConfig(vocab_size=262, hidden_size=32, n_layer=2, n_head=4, eos_token_id=2, pad_token_id=0))


def tiny_mistral():
    """Sees eight tokens back."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return tiny_of(MistralConfig(vocab_size=262, num_key_value_heads=2, head_dim=8, sliding_window=8, eos_token_id=2, **sizes))


class AllLogits(nn.Module):
    """A model that cannot leave logits out."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_model(5)

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    def forward(self, input_ids, attention_mask=None, use_cache=None):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


def texts():
    tokenizer = byte_tokenizer()
    return encoded(tokenizer, [*pairs(range(3)), {"text": "A text that is longer than the others, by far."}, {"text": "No"}])


def brute(model, text):
    """From the definition: one text, one place and one entry of the vocabulary at a time."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([text.input_ids])).logits[0].double().tolist()
    rows = []
    for place in range(max(text.prompt_length, 1), len(text.input_ids)):
        row, token = logits[place - 1], text.input_ids[place]
        total = math.fsum(math.exp(value) for value in row)
        log_p = [value - math.log(total) for value in row]
        mean = math.fsum(math.exp(value) * value for value in log_p)
        variance = math.fsum(math.exp(value) * (value - mean) ** 2 for value in log_p)
        rows.append((log_p[token], mean, math.sqrt(variance), token == max(range(len(row)), key=row.__getitem__)))
    return [list(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("build", [tiny_model, tiny_gpt2, tiny_opt, tiny_bloom, tiny_mistral, AllLogits])
@pytest.mark.parametrize("limit", [None, 10_000])
def test_scores_against_brute_force(build, limit, monkeypatch):
    """Also where few logits may be in memory at a time."""
    if limit is not None:
        monkeypatch.setattr(answer_scores, "LOGITS_AT_A_TIME", limit)
    model = build()
    for text, score in zip(texts(), score_answers(model, texts(), batch_size=3), strict=True):
        log_probs, means, deviations, greedy = brute(model, text)
        assert score.log_probs == pytest.approx(log_probs, abs=2e-5)
        assert score.means == pytest.approx(means, abs=2e-4) and score.deviations == pytest.approx(deviations, abs=2e-4)
        assert score.greedy.tolist() == greedy
        assert score.loss == pytest.approx(-math.fsum(log_probs) / len(log_probs), abs=2e-5)
        length = len(text.answer_ids) - (text.prompt_length == 0)
        assert len(score.of_answer().log_probs) == length and score.answer_length == length


def test_only_logits_before_answers_are_computed():
    model, seen = tiny_model(), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    (text,) = texts()[:1]
    score_answers(model, [text])
    assert seen == [len(text.input_ids) - text.prompt_length]


def test_a_text_with_nothing_to_predict_is_refused():
    with pytest.raises(ValueError, match="single token"):
        score_answers(tiny_model(), [EncodedText([5], 0, 1, True)])


@pytest.mark.parametrize("build", [tiny_model, tiny_gpt2, tiny_opt, tiny_bloom, tiny_mistral])
def test_greedy_answers_against_one_step_at_a_time(build):
    """Nor does what the model's own settings say of penalties and sampling change them."""
    model, tokenizer = build(), byte_tokenizer()
    prompts = [text.input_ids[: 3 + 7 * index] for index, text in enumerate(texts()[:4])]
    expected = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(12):
            with torch.no_grad():
                token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
        expected.append(ids[len(prompt) :])
    model.generation_config.update(do_sample=True, temperature=3.0, repetition_penalty=2.0, no_repeat_ngram_size=1)
    before = model.generation_config.to_dict()
    assert greedy_answers(model, tokenizer, prompts, 12, batch_size=3) == expected
    assert model.generation_config.to_dict() == before


def test_an_answer_ends_at_the_end_of_its_turn():
    model, tokenizer = tiny_model(), byte_tokenizer()
    with torch.no_grad():
        model.lm_head.weight.zero_()  # every token alike: the first, unless one has a lead
    model.generation_config.eos_token_id = [0, 7]
    assert greedy_answers(model, tokenizer, [[5, 6], [8]], 4) == [[], []]
