"""UA, RA, TA, MIA against their definitions, and the report that carries them."""

import json

import numpy as np
import pytest
from sklearn.svm import SVC

from scissorhands_hf import UnlearningReport
from scissorhands_hf.audit import membership_attack, unlearning_metrics
from scissorhands_hf.audit.measures import true_class_confidence
from scissorhands_hf.report import average_gap


def predictions(count: int, confidence: float, correct: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits over 4 classes that put ``confidence`` (a logit) on the right class in a share ``correct`` of rows."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, count)
    logits = generator.normal(0, 0.1, (count, 4))
    right = np.arange(count) < round(correct * count)
    logits[np.arange(count), np.where(right, labels, (labels + 1) % 4)] += confidence
    return logits, labels


def test_accuracies() -> None:
    figures = unlearning_metrics(
        {
            "forget": predictions(40, 5.0, 0.75, 0),
            "retain": predictions(200, 5.0, 1.0, 1),
            "test": predictions(100, 5.0, 0.9, 2),
        }
    )
    assert (figures["UA"], figures["RA"], figures["TA"]) == (25.0, 100.0, 90.0)


def test_confidence_is_the_softmax_of_the_true_class_and_survives_large_logits() -> None:
    logits, labels = np.array([[0.0, np.log(3.0)], [1e4, 0.0]]), np.array([1, 0])
    assert true_class_confidence(logits, labels) == pytest.approx([0.75, 1.0])


def test_membership_attack_direction() -> None:
    """Forget examples that look like members give 0, like unseen ones 100, and half of each 50."""
    members, unseen = predictions(300, 8.0, 1.0, 0), predictions(300, 1.0, 0.6, 1)
    like_members, like_unseen = predictions(60, 8.0, 1.0, 2), predictions(60, 1.0, 0.6, 3)
    both = tuple(np.concatenate(pair) for pair in zip(like_members, like_unseen, strict=True))
    assert membership_attack(members, unseen, like_members) < 5
    assert membership_attack(members, unseen, like_unseen) > 95
    assert membership_attack(members, unseen, both) == pytest.approx(50, abs=5)


def test_membership_attack_balances_members_and_others() -> None:
    members, unseen, target = predictions(500, 3.0, 0.95, 0), predictions(120, 2.0, 0.8, 1), predictions(80, 2.5, 0.9, 2)
    confidence = [true_class_confidence(*part) for part in (members, unseen, target)]
    features = np.concatenate([confidence[0][:120], confidence[1]])[:, None]
    svc = SVC(C=3, gamma="auto", kernel="rbf").fit(features, [1] * 120 + [0] * 120)
    expected = 100 * (svc.predict(confidence[2][:, None]) == 0).mean()
    assert membership_attack(members, unseen, target) == expected


def test_metrics_refuse_what_does_not_fit() -> None:
    good = predictions(10, 1.0, 1.0, 0)
    with pytest.raises(KeyError, match="test"):
        unlearning_metrics({"forget": good, "retain": good})
    with pytest.raises(ValueError, match="retain: logits"):
        unlearning_metrics({"forget": good, "retain": (good[0], good[1][:-1]), "test": good})


FIGURES = {
    "original": {"UA": 0.0, "RA": 100.0, "TA": 88.0, "MIA": 2.0},
    "retrained": {"UA": 11.0, "RA": 99.0, "TA": 87.0, "MIA": 20.0},
    "unlearned": {"UA": 9.0, "RA": 98.0, "TA": 87.0, "MIA": 21.0},
}


def test_average_gap() -> None:
    assert average_gap(FIGURES["unlearned"], FIGURES["retrained"]) == 1.0
    with pytest.raises(ValueError, match="no metric in common"):
        average_gap({"a": 1.0}, {"b": 1.0})


def test_report_round_trip_table_and_plot(tmp_path) -> None:
    report = UnlearningReport(
        settings={"trim_ratio": 0.03},
        metrics=FIGURES,
        trim={"threshold": 1e-3, "per_module": {"layer.3": {"trimmed": 3, "weights": 10}}},
        history=[{"step": 1, "retain_loss": 0.5, "forget_loss": 1.0}, {"step": 2, "retain_loss": 0.4}],
        notes=["600 examples | <b>seed</b> 0"],
    )
    path = report.save(tmp_path / "run")
    assert path.name == "unlearning_report.json"
    assert UnlearningReport.load(tmp_path / "run") == report
    assert json.loads(path.read_text())["average_gap"] == {"original": pytest.approx(7.75), "unlearned": 1.0}
    table = report.to_markdown()
    assert "| unlearned | 9.0 | 98.0 | 87.0 | 21.0 | 1.0 |" in table
    assert "| retrained | 11.0 | 99.0 | 87.0 | 20.0 |  |" in table
    assert "<b>" not in table
    assert "unlearning accuracy" in table
    assert report.plot(tmp_path / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_an_empty_report_invents_nothing(tmp_path) -> None:
    report = UnlearningReport()
    assert report.to_markdown() == "No figures were measured.\n"
    with pytest.raises(ValueError, match="nothing|no figures"):
        report.plot(tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()
