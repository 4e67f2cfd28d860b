"""The search of equal budgets: what is tried in which order, what is chosen of it, and that one process makes each run."""

import json
import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import language_search as search
from claims import claimed
from language import ASKED, COLUMNS, missed


GOOD = {
    "forget loss": 1.7,
    "forget extraction": 0.0,
    "paraphrased extraction": 0.0,
    "retain extraction": 97.0,
    "retain loss": 0.01,
    "perplexity": 70.0,
    "forget repetition": 0.0,
    "relearned extraction": 0.0,
}
ORIGINAL = GOOD | {"forget loss": 0.0, "forget extraction": 100.0, "relearned extraction": 90.0}
RETRAINED = GOOD | {"forget loss": 1.8}


@pytest.fixture
def options(tmp_path: Path) -> Namespace:
    return Namespace(output=tmp_path, methods=["dpo", "npo"], tuning_seed=0, seeds=[1, 2], learning_rate=1e-4)


def write(output: Path, stage: str, method: str, index: int | None, seed: int = 0, **figures: float) -> None:
    job = search.Job(stage, method, seed, index)
    figures = {"original": ORIGINAL, "retrained": RETRAINED}.get(method, GOOD) | figures
    record = {"method": method, "seed": seed, "index": index, "figures": figures, "truth_ratios": [0.5, 1.0, 2.0]}
    (output / job.name).write_text(json.dumps(record))


def test_all_methods_have_as_many_settings_and_none_twice():
    for method, (_, strengths) in search.STRENGTHS.items():
        assert len(strengths) == 2
        tried = [json.dumps(search.settings_of(method, index), sort_keys=True) for index in range(len(search.PLAN))]
        assert len(set(tried)) == len(search.PLAN) == 8
        assert all(search.settings_of(method, index)["per_device_forget_batch_size"] == 4 for index in range(8))


def test_methods_take_turns(options: Namespace):
    jobs = search.search_jobs(options)
    assert [job.method for job in jobs[:6]] == ["original", "retrained", "dpo", "npo", "dpo", "npo"]
    assert len({job.name for job in jobs}) == len(jobs) == 2 + 2 * 8 + len(search.FURTHER)


def test_the_choice_is_among_as_many_settings_of_each(options: Namespace):
    for name in ("original", "retrained"):
        write(options.output, "given", name, None)
    for index, perplexity in enumerate((80.0, 75.0, 70.0)):  # the third of npo has not been tried
        write(options.output, "search", "dpo", index, perplexity=perplexity)
    write(options.output, "search", "npo", 0, **{"forget loss": 0.1, "perplexity": 90.0})
    write(options.output, "search", "npo", 1, **{"forget loss": 9.0, "perplexity": 71.0})
    chosen = search.choose(options)
    # Of npo the second misses but one figure, the first two; of dpo the third is the best, but npo has had two tries.
    assert chosen == {"settings tried of each method": 2, "methods": {"dpo": 1, "npo": 1}, "further": 2}
    jobs = search.report_jobs(options, chosen)
    assert {job.seed for job in jobs} == {1, 2}
    assert [job.method for job in jobs if job.seed == 1] == [
        "original", "retrained", "defaults", "dpo, searched further", "dpo", "npo"
    ]  # fmt: skip


def test_a_run_that_failed_is_not_chosen(options: Namespace):
    for name in ("original", "retrained"):
        write(options.output, "given", name, None)
    for method in options.methods:
        write(options.output, "search", method, 1, perplexity=90.0)
        failed = {"method": method, "seed": 0, "index": 0, "error": "ValueError"}
        (options.output / search.Job("search", method, 0, 0).name).write_text(json.dumps(failed))
    assert search.choose(options)["methods"] == {"dpo": 1, "npo": 1}
    assert "| dpo | β 0.03, rate 0.0001, kept 4 | failed |" in search.tables(options)


def test_what_is_missed_is_counted_in_its_limits():
    assert missed(GOOD, ORIGINAL, RETRAINED) == {}
    worse = GOOD | {"forget loss": 0.8, "perplexity": 70 * 1.06, "retain extraction": 0.98 * 97.0}
    beyond = missed(worse, ORIGINAL, RETRAINED)
    assert beyond == pytest.approx({"forget loss within 0.5 of the retrained": 1.0, "perplexity at most 2 % up": 2.0}, abs=1e-6)
    assert set(beyond) < set(ASKED) and set(COLUMNS) == set(GOOD)


def test_a_claim_is_one_process_s_until_it_dies(tmp_path: Path):
    target = tmp_path / "run.json"
    with claimed(target) as mine:
        with claimed(target) as again:
            assert mine and not again
        assert target.with_suffix(".claim").read_text() == str(os.getpid())
    assert list(tmp_path.iterdir()) == []
    target.with_suffix(".claim").write_text("999999999")
    with claimed(target) as mine:
        assert mine
