"""A figure that is no finite number: null in JSON, and on no table, plot, card or metadata, with a word on where it went."""

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from scissorhands_hf import ConceptErasureReport, UnlearningReport
from scissorhands_hf.hub.card import build_card
from scissorhands_hf.hub.run import CardInfo
from scissorhands_hf.report.figures import FIGURES
from scissorhands_hf.report.plots import by_unit
from scissorhands_hf.report.report_schema import report_schema


def strict(text: str) -> Any:
    """As readers outside of Python read JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def one_class_area() -> float:
    """What scikit-learn makes of the area under the curve where the forget set holds one class alone."""
    with pytest.warns(UserWarning, match="[Oo]nly one class"):
        return float(roc_auc_score(np.ones(4), np.linspace(0, 1, 4)))


@pytest.fixture
def report() -> UnlearningReport:
    return UnlearningReport(
        settings={"forget_loss_ceiling": math.inf, "seed": 3, "learning_rate": 0.1},
        metrics={
            "original": {"UA": 1.5, "forget roc_auc": one_class_area()},
            "retrained": {"UA": 40.0, "RA": math.nan, "forget roc_auc": math.nan},
            "unlearned": {"UA": 42.0, "RA": 99.0, "TA": math.inf, "forget roc_auc": math.nan},
        },
        history=[{"step": 1, "retain_loss": 0.5, "forget_loss": math.nan}, {"step": 2, "retain_loss": 0.4, "forget_loss": 3.0}],
        seconds={"train": 1.0},
    )


def test_the_report_is_json_that_every_reader_accepts(report: UnlearningReport, tmp_path: Path) -> None:
    values = strict(report.save(tmp_path).read_text(encoding="utf-8"))
    assert values["metrics"]["unlearned"] == {"UA": 42.0, "RA": 99.0, "TA": None, "forget roc_auc": None}
    assert values["history"][0]["forget_loss"] is None
    assert values["settings"]["forget_loss_ceiling"] == "inf"  # it means something: no ceiling
    # RA is no number of the retrained model, so the gap is that of UA alone.
    assert values["average_gap"] == {"original": 38.5, "unlearned": 2.0}
    jsonschema.validate(values, report_schema())
    assert UnlearningReport.load(tmp_path).to_dict() == values


@pytest.mark.parametrize("kind", ["live", "reloaded"])
def test_tables_and_plots_show_numbers_alone(report: UnlearningReport, tmp_path: Path, kind: str) -> None:
    if kind == "reloaded":
        report = UnlearningReport.load(report.save(tmp_path))
    text = report.to_markdown()
    assert "nan" not in text.lower().replace("unlearn", "") and "| inf" not in text
    head = text.splitlines()[0]
    assert "UA" in head and "RA" in head and "roc" not in head and "TA" not in head
    assert "is left out" in text and text.count("is left out") == 3  # RA of one model, TA and the area
    assert by_unit(report.metrics) == {
        "Measured, in percent": {"original": {"UA": 1.5}, "retrained": {"UA": 40.0}, "unlearned": {"UA": 42.0, "RA": 99.0}}
    }
    assert report.plot(tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize("disclose", ["full", "summary", "none"])
def test_the_card_leaves_it_out_and_says_so(report: UnlearningReport, disclose: str) -> None:
    card = build_card(
        CardInfo(library="transformers", architecture="ResNetForImageClassification", loader="AutoModel", disclose=disclose),
        report.to_dict(),
    )
    text = str(card)
    front = yaml.safe_load(text.split("---")[1])
    results = front["model-index"][0]["results"]
    values = [metric["value"] for result in results for metric in result["metrics"]]
    assert sorted(values) == [42.0, 99.0] and ".nan" not in text and ".inf" not in text
    assert "TA is left out: it came out as no finite number (unlearned)" in text.replace("\\", "")
    assert "`forget_loss_ceiling` | `inf`" in text
    assert "No membership attack was tried" in text


def test_a_membership_figure_that_is_no_number_is_no_attack() -> None:
    report = UnlearningReport(metrics={"unlearned": {"UA": 3.0, "MIA": math.nan}})
    card = str(build_card(CardInfo(library="transformers", architecture="BertModel", loader="AutoModel"), report.to_dict()))
    assert "No membership attack was tried" in card


def test_a_concepts_report_as_well(tmp_path: Path) -> None:
    shown, gone = FIGURES["concept"].name, FIGURES["kept"].name
    report = ConceptErasureReport(
        concepts=["dress"], metrics={"original": {shown: 99.0, gone: math.nan}, "unlearned": {shown: 0.0, gone: math.nan}}
    )
    values = strict(report.save(tmp_path).read_text(encoding="utf-8"))
    jsonschema.validate(values, report_schema())
    text = ConceptErasureReport.load(tmp_path).to_markdown()
    assert f"{gone} is left out" in text and "99.0" in text and "nan" not in text.replace("unlearned", "")
    assert report.plot(tmp_path / "plot.png").stat().st_size > 1000


def test_what_a_push_stages_is_strict_json(tmp_path: Path) -> None:
    info = CardInfo(library="transformers", architecture="BertModel", loader="AutoModel")
    info.reports = [{"metrics": {"unlearned": {"UA": math.nan}}}]
    info.save(tmp_path)
    (file,) = tmp_path.iterdir()
    assert strict(file.read_text(encoding="utf-8"))["reports"][0]["metrics"]["unlearned"] == {"UA": None}
