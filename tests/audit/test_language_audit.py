"""The audit of whole models: one that learned by heart, one that never did, and that nothing of it is left behind."""

import json
import random

import jsonschema
import numpy as np
import pytest
import torch
from tiny_language import byte_tokenizer, encoded, pairs, taught, tiny_model
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

from scissorhands_hf.audit import audit_language_model
from scissorhands_hf.audit.language import language_audit, language_measures
from scissorhands_hf.hub.card import build_card
from scissorhands_hf.hub.run import CardInfo
from scissorhands_hf.report import LanguageReport, UnlearningReport, report_schema
from scissorhands_hf.report.disclosure import redact


FORGET, RETAIN, HOLDOUT = pairs([0, 1, 2]), pairs([3, 4]), pairs([5, 6, 7])
GENERAL = ["Water boils at a hundred degrees.", "The moon goes around the earth."]
QUICK = {"relearn_steps": 0, "rounding": (), "max_new_tokens": 24}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def original(tokenizer):
    return taught(tiny_model(), encoded(tokenizer, [*FORGET, *RETAIN]), steps=110)


@pytest.fixture(scope="module")
def retrained(tokenizer):
    return taught(tiny_model(1), encoded(tokenizer, RETAIN), steps=90)


@pytest.fixture(scope="module")
def report(tokenizer, original, retrained):
    return audit_language_model(
        tiny_model(2), tokenizer, forget=FORGET, retain=RETAIN, holdout=HOLDOUT, general=GENERAL, original=original,
        retrained=retrained, examples=2, max_new_tokens=24, relearn_steps=3, relearn_learning_rate=1e-3, muse=True,
    )  # fmt: skip


def test_a_model_that_learned_by_heart(report):
    figures = report.metrics["original"]
    assert figures["forget extraction"] == figures["retain extraction"] == 100
    assert figures["forget extraction strength"] == figures["forget exact memorisation"] == figures["forget ROUGE-L"] == 1
    assert figures["forget loss"] < 0.1 and figures["forget probability"] > 0.9
    assert figures["int8 extraction"] == 100
    assert report.intervals["original"]["forget extraction"] == pytest.approx([100 * 3 / (3 + 1.959964**2), 100])
    assert figures["MIA loss"] == 1 and report.intervals["original"]["MIA loss"][0] < 1
    assert figures["PrivLeak"] < -50


def test_models_that_did_not(report):
    for model in ("retrained", "unlearned"):
        figures = report.metrics[model]
        assert figures["forget extraction"] == figures["relearned extraction"] == 0
        assert figures["forget extraction strength"] < 0.15 and figures["forget probability"] < 0.2
    assert report.metrics["retrained"]["retain extraction"] == 100
    assert report.metrics["unlearned"]["retain extraction"] == 0
    assert "forget quality" not in report.metrics["retrained"]


def test_the_retrained_model_beside_itself_cannot_be_told(tokenizer, retrained):
    figures = audit_language_model(
        retrained, tokenizer, forget=FORGET, retain=RETAIN, holdout=HOLDOUT, retrained=retrained, **QUICK
    ).metrics
    assert figures["unlearned"]["forget quality"] == 1 and figures["unlearned"]["PrivLeak"] == 0
    shared = {name: value for name, value in figures["unlearned"].items() if name in figures["retrained"]}
    assert shared == figures["retrained"]


def test_the_report_is_saved_loaded_shown_and_drawn(report, tmp_path):
    path = report.save(tmp_path)
    jsonschema.validate(json.loads(path.read_text()), report_schema())
    loaded = UnlearningReport.load(tmp_path)
    assert isinstance(loaded, LanguageReport) and loaded.to_dict() == report.to_dict() and loaded == report
    text = report.to_markdown()
    assert [line for line in text.splitlines() if line.startswith("|  |")][0] == "|  | original | retrained | unlearned |"
    for name in report.metrics["unlearned"]:
        assert f"\n| {name} |" in text
    assert "| forget extraction | 100.0 (43.9 to 100.0) | 0.0 (0.0 to 56.1) |" in text
    assert "MIA loss | 1.000 (" in text and "arXiv:2401.06121" in text and "From Skarven." in text
    assert report.plot(tmp_path / "audit.png").stat().st_size > 20_000


def test_forget_data_is_published_by_no_choice(report, original, tokenizer):
    words = [row[column] for row in FORGET for column in ("question", "answer", "fact")]
    saved = report.to_dict()
    assert all(word in json.dumps(saved) for word in words[:6])
    info = CardInfo(library="transformers", architecture="A", loader="A", pipeline_tag="text-generation")
    for disclose in ("full", "summary", "none"):
        public = json.dumps(redact(saved, disclose))
        card = str(build_card(CardInfo(**{**vars(info), "disclose": disclose}), saved))
        assert not [word for word in words if word in public or word in card]
        jsonschema.validate(redact(saved, disclose), report_schema())
    assert "| figure | `original` | `retrained` | `unlearned` |" in card and "\n| `forget loss` | " in card
    assert "intervals" not in redact(saved, "none") and "forget" not in redact(saved, "none")["sets"]
    without = audit_language_model(original, tokenizer, forget=FORGET, retain=RETAIN, **QUICK)
    assert not [word for word in words if word in json.dumps(without.to_dict())] and without.examples == []


def everything(model, tokenizer):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [(weight.requires_grad, weight.grad) for weight in model.parameters()],
        dict(vars(model)),
        json.dumps([model.config.to_dict(), model.generation_config.to_dict()], default=str, sort_keys=True),
        (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token, tokenizer.chat_template),
        (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
    )


@pytest.mark.parametrize("stage", [None, "relearning", "int4", "general"])
def test_everything_is_left_as_it_was_found(stage, original, tokenizer):
    """After an error in the midst of a stage, too."""
    original.train()
    original.model.layers[0].eval()
    original.config.use_cache = False
    first = next(original.parameters())
    first.requires_grad_(False)
    first.grad = torch.ones_like(first)
    before = everything(original, tokenizer)

    def progress(model, name):
        random.random(), np.random.rand(), torch.rand(1)
        if name == stage:
            plain = language_measures.greedy_answers
            patch.setattr(language_measures, "greedy_answers", lambda *a, **k: plain(*a, **k) and 1 / 0)

    def run():
        audit_language_model(
            original,
            tokenizer,
            forget=FORGET,
            retain=RETAIN,
            general=GENERAL,
            progress=progress,
            relearn_steps=2,
            max_new_tokens=4,
        )

    with pytest.MonkeyPatch.context() as patch:
        if stage is None:
            run()
        else:
            with pytest.raises(ZeroDivisionError):
                run()
    after = everything(original, tokenizer)
    assert all(torch.equal(value, before[0][name]) for name, value in after[0].items())
    assert after[1:3] == before[1:3] and after[4:] == before[4:]
    assert after[3].keys() == before[3].keys() and all(after[3][name] is value for name, value in before[3].items())
    original.eval().requires_grad_(True)
    original.zero_grad()


def test_models_by_their_folder(original, tokenizer, tmp_path):
    original.save_pretrained(tmp_path)
    arguments = {"forget": FORGET, "retain": RETAIN, "general": GENERAL, **QUICK}
    found = audit_language_model(str(tmp_path), tokenizer, original=tmp_path, **arguments)
    expected = audit_language_model(original, tokenizer, **arguments)
    assert found.metrics["original"] == found.metrics["unlearned"] == pytest.approx(expected.metrics["unlearned"])
    half = audit_language_model(tmp_path, tokenizer, dtype="bfloat16", device="cpu", **arguments)
    assert (found.measure["dtype"], half.measure["dtype"]) == ("float32", "bfloat16")


def test_texts_and_completions(original, tokenizer):
    texts = [{"text": "A story that nobody has ever told to anyone."}, {"text": "And another one, of which nothing is known."}]
    known = taught(tiny_model(4), encoded(tokenizer, texts), steps=120)
    figures = audit_language_model(known, tokenizer, forget=texts, retain=texts, **QUICK).metrics["unlearned"]
    assert figures["VerbMem"] > 90 and figures["forget ROUGE-L"] == 1 and "KnowMem" not in figures
    rows = [{"prompt": "So he said: ", "completion": "never"}] * 2
    figures = audit_language_model(original, tokenizer, forget=rows, retain=rows, muse=True, **QUICK).metrics["unlearned"]
    assert "VerbMem" in figures and "forget extraction" not in figures


def test_utility_over_tofus_nine_parts(original, tokenizer):
    sets = {"real authors": pairs([3, 4]), "world facts": pairs([4, 3])}
    report = audit_language_model(original, tokenizer, forget=FORGET, retain=RETAIN, utility_sets=sets, **QUICK)
    assert not any("Model utility" in note for note in report.notes)
    alone = audit_language_model(original, tokenizer, forget=FORGET, retain=RETAIN, **QUICK)
    assert any("Model utility is over retain probability" in note for note in alone.notes)
    assert report.metrics["unlearned"]["model utility"] != alone.metrics["unlearned"]["model utility"]
    assert report.sets["world facts"] == 2


def test_truth_ratios_that_tell_nothing_are_said_to(original, tokenizer):
    """The model was taught one wording alone, and finds another as unlikely as what is wrong."""
    report = audit_language_model(original, tokenizer, forget=FORGET, retain=RETAIN, **QUICK)
    assert report.metrics["unlearned"]["retain truth ratio"] < 0.05
    assert any("Truth ratio and forget quality say little here" in note for note in report.notes)
    rows = [{**row, "paraphrased_answer": row["answer"]} for row in RETAIN]
    report = audit_language_model(original, tokenizer, forget=FORGET, retain=rows, **QUICK)
    assert report.metrics["unlearned"]["retain truth ratio"] > 0.5
    assert not any("say little" in note for note in report.notes)


def test_a_reference_model_is_not_reported(original, retrained, tokenizer):
    report = audit_language_model(
        original, tokenizer, forget=FORGET, retain=RETAIN, holdout=HOLDOUT, reference=retrained, **QUICK
    )
    assert list(report.metrics) == ["unlearned"] and report.metrics["unlearned"]["MIA reference"] == 1


def t5():
    return T5ForConditionalGeneration(T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def bert():
    return BertForSequenceClassification(
        BertConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"forget": []}, ValueError, "forget holds no rows"),
        ({"retain": "me/data"}, TypeError, "retain=str is not a list"),
        ({"forget": [*FORGET, {"words": "x"}]}, ValueError, "forget: a row with the columns 'words'"),
        ({"forget": [FORGET[0], {**FORGET[1], "fact": None}]}, ValueError, "forget: row 1 has nothing in the column 'fact'"),
        ({"utility_sets": {"facts": [{"text": "a b"}]}}, ValueError, "'facts' has no column 'perturbed_answer'"),
        ({"dtype": "int8"}, ValueError, "dtype='int8' is none of auto, float32"),
        ({"name": "original"}, ValueError, "name='original'"),
        ({"batch": 3}, TypeError, "no argument 'batch'; its settings are batch_size"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"rounding": (3,)}, ValueError, "rounding=\\[3\\]"),
        ({"min_k": 40}, ValueError, "min_k=40"),
        ({"forget": FORGET[:1], "relearn_steps": 2}, ValueError, "relearn_examples=None of 1"),
        ({"original": bert()}, TypeError, "original=BertForSequenceClassification|has no output layer"),
        ({"model": t5()}, ValueError, "model=T5ForConditionalGeneration is an encoder-decoder"),
        ({"model": 3}, TypeError, "model=int is no language model"),
        ({"max_new_tokens": 240}, ValueError, "a prompt of .* tokens with 240 new ones is longer.*max_new_tokens=240"),
        ({"general": ["word " * 80]}, ValueError, "a text of 400 tokens is longer; give a smaller max_length=1024"),
        ({"original": "/no/such/folder"}, OSError, "no/such/folder"),
        ({"retrained": tiny_model(vocabulary=100)}, ValueError, "retrained has 100 embeddings and the tokenizer 262 tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_audited_is_refused_before_any_model_runs(changed, error, message, tokenizer, monkeypatch):
    monkeypatch.setattr(language_audit, "ModelMeasure", None)
    arguments = {"model": tiny_model(), "tokenizer": tokenizer, "forget": FORGET, "retain": RETAIN, **QUICK, **changed}
    with pytest.raises(error, match=message):
        audit_language_model(**arguments)


def test_questions_asked_in_another_language(original, tokenizer):
    rows = [{**row, "translated_answer": f"Aus {row['fact']}."} for row in FORGET]
    figures = audit_language_model(original, tokenizer, forget=rows, retain=RETAIN, **QUICK).metrics["unlearned"]
    assert {"translated ROUGE-L", "translated extraction", "paraphrased extraction"} <= figures.keys()
