"""The registry of figures: what is added to it is known to tables, plots, cards, pages and the schema."""

import json
import subprocess
import sys

import jsonschema
import pytest
import yaml
from matplotlib.axes import Axes

from scissorhands_hf.hub.card import build_card
from scissorhands_hf.hub.run import CardInfo
from scissorhands_hf.report import FIGURES, ConceptErasureReport, Figure, PromptScore, UnlearningReport, report_schema
from scissorhands_hf.report.disclosure import redact
from scissorhands_hf.report.figures import explanations, show
from spaces_demo import render


NEW = Figure(
    "forget likeness", "%", "up", "share of forget answers that cannot be told from a retrained model's", "forget",
    "arXiv:2401.06121", "forget_likeness", wanted="should be above 5", digits=3,
)  # fmt: skip


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What stands below the bars of plots."""
    found: list[str] = []
    plain = Axes.set_xticks

    def record(self: Axes, ticks: object, labels: list[str] | None = None, **options: object) -> object:
        found.extend(labels or ())
        return plain(self, ticks, labels, **options)

    monkeypatch.setattr(Axes, "set_xticks", record)
    return found


def test_a_new_figure_is_one_edit(monkeypatch: pytest.MonkeyPatch, labels: list[str], tmp_path) -> None:
    """Table, plot, page, card, metadata and schema know it from its entry alone; without it they show the bare number."""
    metrics = {"original": {"forget likeness": 0.01}, "unlearned": {"forget likeness": 87.65432}}
    info = CardInfo(library="transformers", architecture="A", loader="A", pipeline_tag="text-generation")
    report = UnlearningReport(metrics=metrics, sets={"forget": 600})
    concept = ConceptErasureReport(metrics=metrics)

    def everywhere() -> list[str]:
        card = str(build_card(info, report.to_dict()))
        (result,) = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"]
        return [
            report.to_markdown(), concept.to_markdown(), render.metrics_table(metrics), card, json.dumps(result),
            json.dumps(report_schema()),
        ]  # fmt: skip

    before = everywhere()
    assert not any("cannot be told" in text for text in before) and not any("87.654" in text for text in before[:3])
    assert "forget_likeness" not in before[4]
    assert "87.7" in before[0], "figures that are not known pass through"
    monkeypatch.setitem(FIGURES, NEW.name, NEW)
    after = everywhere()
    for text in after[:4]:
        assert "87.654" in text and "0.010" in text and NEW.wording in text.replace("&#x27;", "'")
        assert "should be above 5" in text
    assert json.loads(after[4])["metrics"][0]["type"] == "forget_likeness"
    assert json.loads(after[4])["dataset"]["name"] == "forget set, 600 examples"
    assert NEW.wording in after[5] and "arXiv:2401.06121" in after[5]
    for kind in (report, concept):
        labels.clear()
        kind.plot(tmp_path / "plot.png")
        assert any(label.startswith("forget likeness") for label in labels)


def test_figures_of_other_units_have_an_axis_of_their_own(labels: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda self, title, **options: titles.append(title))
    UnlearningReport(metrics={"unlearned": {"bits": 40_000.0, "UA": 9.0}}).plot(tmp_path / "a.png")
    assert titles == ["Measured, in percent", "Measured"] and labels == ["UA", "bits"]


def reports() -> dict[str, UnlearningReport]:
    figures = {"UA": 9.0, "RA": 98.0, "TA": 87.0, "MIA": 21.0, "their own": -3.5}
    return {
        "empty": UnlearningReport(),
        "trainer": UnlearningReport(
            settings={"trim_ratio": 0.03, "reinit_target_modules": ["a"], "recipe": None},
            metrics={"retrained": figures, "unlearned": {**figures, "UA": 11.0}},
            trim={"threshold": None, "candidates": 0, "per_module": {"a": {"trimmed": 1, "weights": 2}}},
            history=[{"step": 1, "epoch": 0.5, "retain_loss": 0.5, "forget_loss": 1.0}],
            seconds={"train": 1.5}, notes=["n"], versions={"torch": "2"}, sets={"forget": 6},
        ),
        "concept": ConceptErasureReport(
            metrics={"original": {"concept": 100.0}, "unlearned": {"concept": 0.0, "concept change": 1.2}},
            concepts=["dress"], edit={"instead": ["bag"], "per_layer": {"a": 0.1}}, measure={"seed": 0}, warnings=["w"],
            prompts=[
                PromptScore("a dress", "concept", "dress", 4, 100.0, 0.0, 1.2),
                PromptScore("", "kept", None, 4, None, None, 0.1),
            ],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["empty", "trainer", "concept"])
def test_saved_reports_fit_the_schema(name: str, tmp_path) -> None:
    """Whole, and the parts of them that are published."""
    validator = jsonschema.Draft202012Validator(report_schema())
    validator.check_schema(validator.schema)
    saved = json.loads(reports()[name].save(tmp_path).read_text())
    for values in (saved, *(redact(saved, disclose) for disclose in ("full", "summary", "none"))):
        validator.validate(values)


def test_the_schema_refuses_what_is_no_report() -> None:
    saved = {name: report.to_dict() for name, report in reports().items()}
    wrong = [
        {**saved["trainer"], "report": "other"},
        {**saved["trainer"], "metrics": {"unlearned": {"UA": 101.0}}},
        {**saved["trainer"], "metrics": {"unlearned": {"UA": "high"}}},
        {**saved["trainer"], "concepts": ["dress"]},
        {**saved["trainer"], "sets": {"forget": 1.5}},
        {**saved["concept"], "prompts": [{"prompt": "p"}]},
        {key: value for key, value in saved["trainer"].items() if key != "report"},
    ]
    for values in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(values, report_schema())


def test_every_figure_is_described() -> None:
    for name, figure in FIGURES.items():
        assert name == figure.name and figure.unit and figure.wording and figure.over and figure.source
    assert [label for label, _ in explanations(["concept change", "kept change", "UA", "unknown"])] == ["change", "UA"]
    assert (show("UA", 9.04), show("kept change", 0.125), show("loss", 1.23456), show("UA", None)) == (
        "9.0",
        "0.12",
        "1.235",
        "",
    )


def test_a_concept_report_is_known_before_anyone_imports_its_class(tmp_path) -> None:
    reports()["concept"].save(tmp_path)
    code = "import sys; from scissorhands_hf import UnlearningReport; print(UnlearningReport.load(sys.argv[1]).kind)"
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "concept_erasure"


def test_what_defines_a_figure_exists():
    """A source of this package is a function that can be read; the others are papers."""
    import pydoc

    for figure in FIGURES.values():
        assert figure.source.startswith("arXiv:") or callable(pydoc.locate(figure.source)), figure.source
