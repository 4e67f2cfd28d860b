"""Probes on a card: what they found, beside whom, and nothing that a push may not tell."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from test_card import concept_report, nasty_text

from scissorhands_hf.hub import write_card
from scissorhands_hf.hub.card import build_card
from scissorhands_hf.hub.folder import no_longer_ours
from scissorhands_hf.hub.probe_section import plot_names, public_probes, read_probes
from scissorhands_hf.hub.readme import set_probes
from scissorhands_hf.hub.run import CardInfo, SavedRun, pipeline_info
from scissorhands_hf.report import ProbeReport, ProbeScore


def probe_report(
    concept: str = "dress", setting: str = "1 vector", models: tuple[str, ...] = ("pipeline", "reference", "control")
):
    seen = {"pipeline": 13, "reference": 16, "control": 1}
    scores = [ProbeScore("token", setting, model, seen[model], 16, 3) for model in models]
    scores += [ProbeScore("img2img", f"{share}%", model, seen[model] // 2, 16, 3) for model in models for share in (40, 60)]
    measure = {"judge": f"{concept}-judge", "label": concept, "pictures_a_share": 16, "seed": 3}
    return ProbeReport(concept, scores, unavailable={"inpainting": f"no {concept} here"}, measure=measure)


def pipeline_card(probes: Any, report: dict[str, Any] | None = None, **options: Any) -> str:
    info = pipeline_info("StableDiffusionPipeline")
    info.reports = [report or concept_report("dress", "a photo of a dress")]
    info.probes = read_probes(probes)
    info.update(**options)
    return build_card(info, info.reports[-1], "me/no-dress", probe_plots=plot_names(info)).text


def test_shares_intervals_and_numbers_of_pictures_side_by_side() -> None:
    text = pipeline_card(probe_report())
    assert "| probe | setting | original | erased | control |" in text
    assert "| `token` | 1 vector | 100 (81–100; 16) | 81 (57–93; 16) | 6 (1–28; 16) |" in text
    assert "does the model still know `dress`?" in text and "![Shares that each probe found" in text and "probes_1.png" in text
    assert "`inpainting` could not be run: no dress here" in text and "judge `dress-judge`" in text
    alone = pipeline_card(probe_report(models=("pipeline",)))
    assert "| `token` | 1 vector | 81 (57–93; 16) |" in alone and "No control that never saw it was at hand" in alone
    assert "No control" not in text and "Attacked" not in pipeline_card([])


@pytest.mark.parametrize("disclose", ["summary", "none"])
def test_below_full_neither_the_concept_nor_words_are_told(disclose: str) -> None:
    text = pipeline_card([probe_report(setting="the user's dress"), probe_report("gown")], disclose=disclose)
    body = text.replace("no-dress", "").replace("no\\-dress", "")
    assert "dress" not in body and "gown" not in body and "probes_" not in text
    assert "judge" not in body.split("Attacked")[1][:1500]
    assert "still know what was removed?" in text and "| `token` |  | 100 (81–100; 16) | 81 (57–93; 16) |" in text
    assert "| `img2img` | 60% |" in text and "pictures a share `16`" in text


def test_settings_that_are_not_told_stay_rows_of_their_own() -> None:
    report = ProbeReport("dress", [ProbeScore("words", word, "pipeline", seen, 8, 0) for word, seen in (("a", 0), ("b", 8))])
    text = pipeline_card(report, disclose="summary")
    assert "| `words` |  | 0 (0–32; 8) |" in text and "| `words` |  | 100 (68–100; 8) |" in text


def test_pictures_of_probes_go_with_all_pictures_alone() -> None:
    assert "probes_1.png" not in pipeline_card(probe_report(), pictures="kept")


def test_the_card_says_what_an_erasure_did() -> None:
    def done(objective: str, trimmed: int) -> str:
        trim = {"threshold": 1e-3, "candidates": 120_000, "trimmed": trimmed}
        report = concept_report("dress", "a dress", settings={"forget_objective": objective}, trim=trim)
        return pipeline_card([], report).split("## What was removed")[1].split("## Measured")[0]

    avoided, removed, cut = done("closed_form", 0), done("removal", 2400), done("ascent", 56)
    assert "words are led elsewhere" in avoided and "the denoiser still knows the picture" in avoided
    assert "No weight was re-initialised." in avoided
    assert "led elsewhere.**" not in removed and "taken out of what the denoiser makes of pictures" in removed
    assert "2,400 weights of the 120,000 compared were re-initialised." in removed
    assert "56 weights of the 120,000" in cut and "**" not in cut


def test_fuzz_of_names() -> None:
    """Whatever the concept, a setting or a judge is called, the page is what it would be for harmless ones."""
    generator = random.Random(41)
    plain = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

    def tokens(name: str) -> list[Any]:
        return plain.parse(pipeline_card(probe_report(name, name)))

    reference = [token.type for token in tokens("harmless")]
    for _ in range(150):
        found = tokens(nasty_text(generator))
        assert [token.type for token in found] == reference
        inline = [child for token in found for child in token.children or ()]
        assert [child.attrs["src"] for child in inline if child.type == "image"] == ["probes_1.png"]
        assert not [child for child in inline if child.type == "html_inline"]


def test_reports_come_from_folders_too_and_others_are_refused(tmp_path: Path) -> None:
    report = probe_report()
    report.save(tmp_path)
    assert read_probes(str(tmp_path)) == read_probes([tmp_path]) == read_probes(report)
    assert "pictures" not in read_probes(report)[0]
    for given, error, words in (
        (3, TypeError, "holds a int"), (ProbeReport("dress"), ValueError, "holds no score"),
        (tmp_path / "none", FileNotFoundError, "none"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            read_probes(given)
    model = CardInfo(library="transformers", architecture="ViT", loader="ViT")
    with pytest.raises(ValueError, match="they are of pipelines"):
        set_probes(SavedRun(tmp_path, model, {}), report)


def test_a_card_written_anew_shows_them_until_it_is_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    info = pipeline_info("StableDiffusionPipeline")
    info.reports = [concept_report("dress", "a dress", trim={"threshold": 0.1, "candidates": 9, "trimmed": 2})]
    info.save(tmp_path)
    first = write_card(tmp_path, "me/no-dress", probes=probe_report()).read_text(encoding="utf-8")
    assert "81 (57–93; 16)" in first and (tmp_path / "probes_1.png").stat().st_size > 1000
    assert write_card(tmp_path).read_text(encoding="utf-8") == first
    hidden = write_card(tmp_path, disclose="summary").read_text(encoding="utf-8")
    assert "Attacked" in hidden and not (tmp_path / "probes_1.png").exists()
    assert "Attacked" not in write_card(tmp_path, probes=[]).read_text(encoding="utf-8")
    kept = json.loads((tmp_path / "scissorhands_card.json").read_text(encoding="utf-8"))
    assert kept["probes"] == []


def test_pictures_of_an_earlier_push_are_taken_out() -> None:
    assert no_longer_ours(["probes_1.png", "probes_2.png", "my_probes_1.png"], ["probes_1.png"]) == ["probes_2.png"]


def test_what_is_public_is_searched_for_secrets() -> None:
    info = pipeline_info("StableDiffusionPipeline")
    info.reports, info.probes = [concept_report("dress", "a dress")], read_probes(probe_report("/home/me/secret"))
    run = SavedRun(Path(), info, info.reports[-1])
    assert "/home/me/secret" in json.dumps(run.public_texts)
    info.disclose = "summary"
    assert "secret" not in json.dumps(public_probes(info)) and "secret" not in json.dumps(run.public_texts[1:])
