"""The classifier's page: what it measures, that it forgets, and that Cancel ends it."""

import numpy as np
import pytest

from spaces_demo.classifier import (
    class_names,
    confusion_matrix,
    forget_class,
    load_classifier,
    load_figures,
    load_images,
    predict_logits,
)
from spaces_demo.limits import CancelledError, RefusedError


def test_confusion_matrix_counts_each_picture_once():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(50, 4)), random.integers(0, 4, 50)
    counted = np.zeros((4, 4), dtype=int)
    for row, label in zip(logits, labels, strict=True):
        counted[label, max(range(4), key=lambda column: row[column])] += 1
    assert (confusion_matrix(logits, labels) == counted).all()


def test_the_shipped_classifier_is_as_good_as_its_card_says():
    test, figures = load_images("test"), load_figures()
    accuracy = 100 * (predict_logits(load_classifier(), test).argmax(1) == test.labels).mean()
    assert accuracy == pytest.approx(figures["test_accuracy"], abs=0.3)
    assert len(test) == figures["test_images"] and len(load_images("train")) == figures["training_images"]
    assert f"{figures['test_accuracy']:.1f} %" in (load_card())


def load_card() -> str:
    from spaces_demo.models import CLASSIFIER_FOLDER

    return (CLASSIFIER_FOLDER / "README.md").read_text(encoding="utf-8")


def test_a_class_is_forgotten_and_the_others_are_kept(tmp_path):
    stages = []
    result = forget_class("sneaker", work=tmp_path, callback=lambda progress: stages.append(progress.stage))
    label = class_names().index("sneaker")
    before, after = result.confusion["original"], result.confusion["unlearned"]
    assert before[label, label] >= 80 and after[label, label] <= 2
    others = [row for row in range(10) if row != label]
    assert after[others, others].sum() >= before[others, others].sum() - 30
    metrics = result.report.metrics
    assert metrics["unlearned"]["UA"] >= 95 and metrics["unlearned"]["RA"] >= 97
    assert metrics["retrained"] == {key: load_figures()["retrained_without"]["sneaker"][key] for key in metrics["original"]}
    gaps = result.report.average_gaps()
    assert gaps["unlearned"] < 5 < gaps["original"]
    assert list(dict.fromkeys(stages)) == ["original", "sensitivity", "repair", "report"]
    # The shipped model is as it was.
    assert (
        confusion_matrix(predict_logits(load_classifier(), load_images("test")), load_images("test").labels) == before
    ).all()


def test_what_the_callback_raises_ends_the_run(tmp_path):
    def stop(progress):
        if progress.stage == "repair":
            raise CancelledError

    with pytest.raises(CancelledError):
        forget_class("bag", work=tmp_path, callback=stop)


@pytest.mark.parametrize("name", [None, "", "hat", "<b>bag</b>"])
def test_a_class_that_it_does_not_know(tmp_path, name):
    with pytest.raises(RefusedError, match="knows no class"):
        forget_class(name, work=tmp_path)
