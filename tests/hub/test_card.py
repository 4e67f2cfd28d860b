"""What is on a card, and what users' words cannot do to it."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from markdown_it import MarkdownIt

from scissorhands_hf.hub import UploadRefusedError, write_card
from scissorhands_hf.hub.card import BEGIN, END, build_card
from scissorhands_hf.hub.readme import merge, newest, user_text
from scissorhands_hf.hub.run import CardInfo, hub_id_of, model_info, pipeline_info
from scissorhands_hf.hub.verify import check_texts
from scissorhands_hf.report.disclosure import redact
from scissorhands_hf.report.markdown import code, one_line, prose


NASTY = [
    "---\n", "\n---\nlicense: proprietary\n", "`", "``", "```python\n", "|", "\\|", "\\", '"', "'", ": ", "#", "- ",
    "!!python/object", "&a *a", "{{ 7*7 }}", "{% raw %}", "[x](http://evil.example)", "![x](http://evil.example/p.png)",
    "<script>alert(1)</script>", "<!-- scissorhands:end -->", "\n<!-- scissorhands:end -->\n", "-->",
    "<img src=x onerror=y>", "http://evil.example", "$x$", "www.evil.example", "eve@evil.example", "../../etc/passwd",
    "\\..\\", "\r\n", "\u2028", "\u202e", "\x00", "\x1b[31m", "\ufeff", "é", "猫", "🦊", "~~~", "*", "**b**", "__",
    "1. ", "> ", "\t", " " * 5, "%s", "${HOME}", "&lt;b&gt;", "&#60;b&#62;", "null", "yes", "1e3",
]  # fmt: skip


def nasty_text(generator: random.Random) -> str:
    return "".join(generator.choice([*NASTY, "dress", " ", "a"]) for _ in range(generator.randrange(1, 9)))


def trainer_report(**changes: Any) -> dict[str, Any]:
    return {
        "settings": {"trim_ratio": 0.03, "recipe": "cifar10-random-10", "forget_objective": "ascent", "seed": 7},
        "metrics": {
            "original": {"UA": 0.1, "RA": 99.8, "TA": 86.7, "MIA": 1.2},
            "retrained": {"UA": 100.0, "RA": 99.6, "TA": 87.9, "MIA": 99.4},
            "unlearned": {"UA": 98.7, "RA": 97.6, "TA": 85.4, "MIA": 93.2},
        },
        "trim": {"threshold": 1e-3, "candidates": 1000, "trimmed": 21, "per_module": {"head": {"weights": 9}}},
        "history": [{"step": 1, "retain_loss": 0.5}],
        "seconds": {"train": 7.5},
        "notes": ["Forgotten: the pictures of Ms Jones."],
        "versions": {"torch": "2.13.0"},
        "sets": {"forget": 600, "retain": 5400, "eval:test": 2000},
        "average_gap": {"original": 49.2, "unlearned": 3.1},
        **changes,
    }  # fmt: skip


def concept_report(concept: str, prompt: str, **changes: Any) -> dict[str, Any]:
    report = {
        **trainer_report(sets={}, notes=[]),
        "concepts": [concept],
        "anchor": concept,
        "measure": {"judge": concept, "images_per_prompt": 4, "seed": 1},
        "prompts": [
            {
                "prompt": prompt, "group": "concept", "label": concept, "images": 4, "original": 90.0, "unlearned": 5.0,
                "change": 1.1,
            }
        ],
        "warnings": [prompt],
        "metrics": {"original": {"concept": 90.0}, "unlearned": {"concept": 5.0, "concept change": 1.1}},
    }  # fmt: skip
    report.pop("average_gap")
    return {**report, **changes}


def card_info(architecture: str, **options: Any) -> CardInfo:
    return CardInfo(library="transformers", architecture=architecture, loader=architecture, **options)


def parts(text: str) -> tuple[dict[str, Any], str]:
    """Metadata and body, by rules of our own: the front matter is what lies between the first two lines of dashes."""
    lines = text.split("\n")
    assert lines[0] == "---"
    end = lines.index("---", 1)
    return yaml.safe_load("\n".join(lines[1:end])), "\n".join(lines[end + 1 :])


def test_figures_sets_seed_and_limits_of_a_trainer() -> None:
    info = CardInfo(
        library="transformers", architecture="ViTForImageClassification", loader="AutoModelForImageClassification",
        processors=["AutoImageProcessor"], pipeline_tag="image-classification",
        base_model="me/vit", license="apache-2.0", language=["en"], retain_datasets=["me/pictures"],
    )  # fmt: skip
    metadata, body = parts(str(build_card(info, trainer_report(), "me/forgetful", plot=True)))
    assert metadata["base_model"] == "me/vit" and metadata["base_model_relation"] == "finetune"
    assert metadata["library_name"] == "transformers" and metadata["pipeline_tag"] == "image-classification"
    assert metadata["license"] == "apache-2.0" and metadata["language"] == ["en"] and metadata["datasets"] == ["me/pictures"]
    assert metadata["tags"][:3] == ["machine-unlearning", "scissorhands", "arxiv:2401.06187"]
    assert metadata["metrics"] == ["accuracy"]
    (index,) = metadata["model-index"]
    found = {
        metric["name"]: (metric["value"], result["dataset"]["name"], result["task"]["type"])
        for result in index["results"]
        for metric in result["metrics"]
    }
    assert index["name"] == "forgetful"
    assert found == {
        "UA": (98.7, "forget set, 600 examples", "image-classification"),
        "RA": (97.6, "retain set, 5400 examples", "image-classification"),
        "TA": (85.4, "test set, 2000 examples", "image-classification"),
        "MIA": (93.2, "forget set, 600 examples", "image-classification"),
    }
    assert "| `unlearned` | 98.7 | 97.6 | 85.4 | 93.2 | 3.1 |" in body
    assert "`TA`: test accuracy: accuracy on the test set" in body and "; 2,000 examples. In percent." in body
    assert "its own decision is the threshold" in body and "Seed of the run: 7." in body
    assert "evidence, not a certificate" in body and "approximate" in body and "@inproceedings{wu2024scissorhands" in body
    assert "600 training examples, 10.0 % of the 6,000 given. Which they are is not disclosed." in body
    assert "scratch" not in body and "Jones" not in body and "per_module" not in body
    snippet = re.search(r"```python\n(.*?)```", body, re.DOTALL).group(1)
    compile(snippet, "snippet", "exec")
    assert 'AutoModelForImageClassification.from_pretrained("me/forgetful")' in snippet
    assert 'AutoImageProcessor.from_pretrained("me/forgetful")' in snippet


@pytest.mark.parametrize("disclose", ["full", "summary", "none"])
def test_every_number_is_from_the_report(disclose: str) -> None:
    """Replace each figure of the report by another: none of the old ones is left on the card. And none without figures."""
    info = card_info("ViTForImageClassification", disclose=disclose)

    def figures(value: Any, shift: float) -> Any:
        if isinstance(value, dict):
            return {key: figures(entry, shift) for key, entry in value.items()}
        return value + shift if isinstance(value, float) else value

    first = trainer_report()
    second = {**first, "metrics": figures(first["metrics"], 0.317), "average_gap": figures(first["average_gap"], 0.317)}
    cards = [str(build_card(info, report)) for report in (first, second)]
    for value in (98.7, 97.6, 85.4, 93.2, 99.4, 49.2):
        assert str(value) in cards[0] and str(value) not in cards[1]
    blank = str(build_card(info, {**first, "metrics": {}, "average_gap": {}}))
    assert "No figures were measured of this model." in blank and ("Nothing was measured." in blank) == (disclose != "full")
    assert "model-index" not in blank and not re.search(r"\b(UA|MIA|RA|TA)\b", blank)
    assert ("Jones" in cards[0]) == (disclose == "full")
    assert ("600" in cards[0]) == (disclose != "none")
    assert ("cifar10-random-10" in cards[0]) == (disclose != "none")


@pytest.mark.parametrize("disclose", ["full", "summary", "none"])
def test_the_method_is_what_was_done(disclose: str) -> None:
    """A card does not say that weights were re-initialised, or layers solved for, where none were."""
    info = pipeline_info("StableDiffusionPipeline")
    info.disclose = disclose
    edit = {"layers": 2, "weights": 80, "per_layer": {"attn2.to_k": 4.0}, "instead": ["trousers"]}
    closed_form = {"settings": {"forget_objective": "closed_form"}, "edit": edit, "anchor": None}
    uncut = {"trim": {"threshold": None, "candidates": 0, "trimmed": 0}}
    for changes in ({}, uncut, closed_form, closed_form | uncut):
        report = concept_report("dress", "a dress", **changes)
        info.reports = [report]
        card = str(build_card(info, report))
        assert ("were re-initialised once" in card) == ("trim" not in changes)
        assert ("without its re-initialisation" in card) == ("trim" in changes)
        assert ("solved for in closed form" in card) == ("edit" in changes)
        assert ("`dress`, led to `trousers`." in card) == ("edit" in changes and disclose == "full")
        assert ("trousers" in json.dumps(redact(report, disclose))) == ("edit" in changes and disclose == "full")
        assert "per_layer" not in json.dumps(redact(report, disclose))
    info.reports = [concept_report("coat", "a coat"), report]  # an earlier run did cut
    assert "were re-initialised once" in str(build_card(info, report))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"removal_target": "neighbours"}, "given to what is nearest"), ({"removal_target": "bayes"}, "Bayes"), ({}, "Bayes")],
)
def test_what_a_removal_aimed_at_is_told(settings: dict[str, str], said: str) -> None:
    info = pipeline_info("StableDiffusionPipeline")
    report = concept_report("dress", "a dress", settings={"forget_objective": "removal", **settings})
    info.reports = [report]
    card = str(build_card(info, report))
    assert said in card and ("given to what is nearest" in card) != ("Bayes" in card)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "taught, with words, without and under text states made to bring them back, as"),
        ({"adversarial_states": 0}, "taught, with words and without, as"),
        ({"adversarial_share": 0.0}, "taught, with words and without, as"),
        ({"adversarial_states": 0, "empty_prompt_share": 0.0}, "taught, with words, as"),
    ],
)
def test_a_removal_is_said_to_be_asked_for_in_the_ways_that_it_was(settings: dict[str, float], said: str) -> None:
    info = pipeline_info("StableDiffusionPipeline")
    info.reports = [concept_report("dress", "a dress", settings={"forget_objective": "removal", **settings})]
    assert said in " ".join(str(build_card(info, info.reports[0])).split())


def test_a_summary_keeps_counts_and_drops_words() -> None:
    report = concept_report("Ms Jones", "a photo of Ms Jones", settings={"concept": "Ms Jones", "lr": 0.1, "recipe": "jones"})
    for disclose in ("summary", "none"):
        text = json.dumps(redact(report, disclose))
        assert "Jones" not in text and "jones" not in text and '"lr": 0.1' in text
    assert "per_module" not in json.dumps(redact(trainer_report(), "full"))
    with pytest.raises(ValueError, match="disclose='some' is not one of"):
        redact(report, "some")


def test_fuzz_of_a_pipelines_card() -> None:
    """Whatever a concept is called, metadata and page are what they would be for a harmless name."""
    generator = random.Random(2401)
    plain = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

    def shape(body: str) -> list[str]:
        return [token.type for token in plain.parse(body)]

    def card(concept: str, prompt: str) -> tuple[dict[str, Any], str]:
        info = pipeline_info("StableDiffusionPipeline")
        info.reports = [concept_report(concept, prompt)] * 2
        info.strips = [{"prompt": prompt, "before": "before_after/01-before.png", "after": "before_after/01-after.png"}]
        info.tags = [concept]
        return parts(merge(build_card(info, info.reports[-1], "me/model"), f"Mine.\n\n{BEGIN}\nold\n{END}\n\nMine, too.\n"))

    reference = card("harmless", "a photo of something")
    for _ in range(250):
        concept, prompt = nasty_text(generator), nasty_text(generator)
        metadata, body = card(concept, prompt)
        assert metadata["tags"][3:] == [one_line(concept, 60)] or not one_line(concept)
        assert {key: value for key, value in metadata.items() if key != "tags"} == {
            key: value for key, value in reference[0].items() if key != "tags"
        }, (concept, prompt)
        assert shape(body) == shape(reference[1]), (concept, prompt)
        inline = [child for token in plain.parse(body) for child in token.children or ()]
        links = [child.attrs["href"] for child in inline if child.type == "link_open"]
        pictures = [child.attrs["src"] for child in inline if child.type == "image"]
        assert links == ["https://arxiv.org/abs/2401.06187"]
        assert pictures == ["before_after/01-before.png", "before_after/01-after.png"]
        assert not [child for child in inline if child.type == "html_inline"]
        assert user_text(f"---\n{{}}\n---\n{body}") == ("Mine.", "Mine, too.")


def test_fuzz_of_a_trainers_card(tmp_path: Path) -> None:
    generator = random.Random(6187)
    plain = MarkdownIt("commonmark", {"html": True}).enable(["table"])

    def card(words: list[str]) -> tuple[dict[str, Any], str]:
        info = card_info("BertForMaskedLM", disclose="full", forgotten=words[0])
        metrics = {"original": {words[1]: 1.0}, "unlearned": {words[1]: 2.0}}
        report = trainer_report(notes=[words[2]], metrics=metrics, average_gap={}, settings={"recipe": words[3], "seed": 1})
        return parts(str(build_card(info, report)))

    reference = card(["a", "b", "c", "d"])
    for _ in range(250):
        words = [nasty_text(generator) for _ in range(4)]
        metadata, body = card(words)
        tokens = plain.parse(body)
        assert [token.type for token in tokens] == [token.type for token in plain.parse(reference[1])], words
        inline = [child for token in tokens for child in token.children or ()]
        assert [child.type for child in inline if child.type in ("link_open", "image", "html_inline")] == ["link_open"], words
        assert set(metadata) == set(reference[0])
        assert metadata["model-index"][0]["results"][0]["metrics"][0]["name"] == one_line(words[1], 100) or not one_line(
            words[1]
        )


def test_escaped_text_reads_as_it_was_written() -> None:
    """What a reader sees is the name, but for characters that nobody can see."""
    plain = MarkdownIt("commonmark").enable("table")
    generator = random.Random(7)
    for _ in range(200):
        text = one_line(nasty_text(generator))
        if not text:
            continue
        (paragraph,) = (token for token in plain.parse(f"x {code(text)} y") if token.type == "inline")
        (span,) = (child for child in paragraph.children if child.type == "code_inline")
        assert span.content == text
        (paragraph,) = (token for token in plain.parse(f"x {prose(text)} y") if token.type == "inline")
        shown = "".join(child.content for child in paragraph.children)
        assert shown.replace("\u2060", "") == f"x {text} y", prose(text)


def test_names_and_places() -> None:
    assert hub_id_of("/data/models/bert") is None and hub_id_of("./bert") is None and hub_id_of(None) is None
    assert hub_id_of("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    assert hub_id_of(Path("bert")) == "bert" and hub_id_of(Path("nowhere/at/all")) is None
    cache = "/somewhere/hub/models--google--vit.base/snapshots/0123abcd"
    assert hub_id_of(cache) == "google/vit.base"
    validate_repo_id(hub_id_of(cache))
    info = model_info("BertForSequenceClassification", Path("nowhere"))
    assert (info.loader, info.pipeline_tag) == ("AutoModelForSequenceClassification", "text-classification")
    assert model_info("LlamaForCausalLM", Path("nowhere")).pipeline_tag == "text-generation"
    for bad in ({"base_model": "../../etc"}, {"license": "a\nb"}, {"language": ["en\n---"]}, {"retain_datasets": ["x y"]}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            card_info("A", **bad)


def test_merging_metadata() -> None:
    new = ModelCard("---\nlibrary_name: transformers\nlicense: mit\ntags:\n- scissorhands\n---\n\n" + f"{BEGIN}\nnew\n{END}")
    old = (
        "---\nlicense: openrail\nlibrary_name: timm\ntags:\n- mine\nwidget:\n- text: hi\nmodel-index:\n- name: x\n  results:\n"
        "  - task:\n      type: t\n    dataset:\n      type: d\n      name: n\n    metrics:\n    - type: accuracy\n"
        "      value: 1\n---\nText.\n"
    )
    metadata, body = parts(merge(new, old))
    assert metadata["license"] == "openrail" and metadata["library_name"] == "transformers"
    assert metadata["tags"] == ["scissorhands", "mine"] and metadata["widget"] == [{"text": "hi"}]
    assert "model-index" not in metadata, "figures of other weights"
    assert body.index(END) < body.index("Text.")
    assert parts(merge(new, old, frozenset({"license"})))[0]["license"] == "mit"
    for broken in (f"{BEGIN}\n{BEGIN}\n{END}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n"):
        with pytest.raises(UploadRefusedError, match="once each"):
            merge(new, broken)
    assert newest("---\n{}\n---\nA\n", "---\n{}\n---\nA\nB\n").endswith("B\n")
    assert newest(None, "x") == "x" and newest("x", None) == "x"


def test_the_accounts_name_in_texts() -> None:
    check_texts({"notes": ["made of wood"]}, "woody")
    check_texts({"notes": ["the root of it"]}, "root")
    check_texts(["woody-allen/model", "me/woody"], "woody")
    with pytest.raises(UploadRefusedError, match="made by Woody"):
        check_texts({"notes": ["made by Woody."]}, "woody")


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UploadRefusedError, match="holds no saved model"):
        write_card(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTForImageClassification"]}))
    with pytest.raises(UploadRefusedError, match="has no unlearning_report.json"):
        write_card(tmp_path)
    (tmp_path / "unlearning_report.json").write_text("{")
    with pytest.raises(UploadRefusedError, match="is damaged"):
        write_card(tmp_path)
    (tmp_path / "unlearning_report.json").write_text(json.dumps(trainer_report()))
    text = write_card(tmp_path, license="mit").read_text()
    assert "AutoModelForImageClassification" in text and "license: mit" in text
    assert (tmp_path / "unlearning.png").stat().st_size > 10_000
