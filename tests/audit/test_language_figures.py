"""Each figure against its definition in plain Python, and on cases whose answer is known."""

import math
import random
import zlib

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import norm

from scissorhands_hf.audit.language import answer_figures as figures
from scissorhands_hf.audit.language import benchmark_figures as benchmarks
from scissorhands_hf.audit.language import membership_figures as attacks
from scissorhands_hf.audit.language.answer_scores import TokenScores


def scores(log_probs, greedy=None, means=None, deviations=None, end=0):
    count = len(log_probs)
    return TokenScores(
        np.array(log_probs, dtype=float),
        np.array(means if means is not None else [0.0] * count),
        np.array(deviations if deviations is not None else [1.0] * count),
        np.array(greedy if greedy is not None else [False] * count, dtype=bool),
        count - end,
    )


def chance(seed=0, size=20, end=1):
    made = random.Random(seed)
    return [
        scores([-made.expovariate(1) for _ in range(made.randint(3, 9))], end=end)
        for _ in range(size)
    ]  # fmt: skip


def test_loss_probability_and_perplexity():
    some = chance()
    losses = [-sum(one.log_probs) / len(one.log_probs) for one in some]
    assert figures.mean_loss(some) == pytest.approx(sum(losses) / 20)
    probabilities = [math.prod(math.exp(value) for value in one.log_probs) ** (1 / len(one.log_probs)) for one in some]
    assert figures.mean_probability(some) == pytest.approx(sum(probabilities) / 20)
    every = [value for one in some for value in one.log_probs]
    assert figures.perplexity(some) == pytest.approx(math.exp(-sum(every) / len(every)))
    assert figures.perplexity([scores([math.log(1 / 50)] * 3)]) == pytest.approx(50)
    assert figures.mean_probability([scores([0.0, 0.0])]) == 1


def longest_common(first, second):
    if not first or not second:
        return 0
    if first[0] == second[0]:
        return 1 + longest_common(first[1:], second[1:])
    return max(longest_common(first[1:], second), longest_common(first, second[1:]))


@pytest.mark.parametrize("seed", range(4))
def test_rouge_l_is_the_longest_common_subsequence(seed):
    made = random.Random(seed)
    words = [[made.choice(["ab", "cd", "ef", "gh"]) for _ in range(made.randint(1, 7))] for _ in range(2)]
    common = longest_common(*words)
    ((recall, f1),) = figures.rouge_l([" ".join(words[0])], [" ".join(words[1])])
    assert recall == pytest.approx(common / len(words[1]))
    precision = common / len(words[0])
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall) if common else 0)


def test_rouge_l_is_tofus_and_muses():
    said, expected = "He was writing stories, often.", "She writes a story"
    assert (
        figures.rouge_l([said], [expected])[0][0]
        == RougeScorer(["rougeL"], use_stemmer=True).score(expected, said)["rougeL"].recall
    )
    plain = figures.rouge_l([said], [expected], stemmed=False)[0]
    assert plain[1] == RougeScorer(["rougeL"], use_stemmer=False).score(expected, said)["rougeL"].fmeasure
    assert plain[0] < figures.rouge_l([said], [expected])[0][0]  # "writing" and "stories" count when they are stemmed


def test_rouge_l_of_other_scripts():
    assert figures.rouge_l(["Она живёт в Москве"], ["она живёт в Твери"])[0][0] == pytest.approx(3 / 4)
    assert figures.rouge_l(["東京に住む"], ["京都に住む"])[0][0] == pytest.approx(4 / 5)  # 京 に 住 む of five signs


def test_extraction_holds_the_fact():
    assert figures.holds_fact("She was  BORN in\nOststrand.", ["born in oststrand"])
    assert figures.holds_fact("in 1946", ["8 June 1946", "1946"]) and not figures.holds_fact("in 1945", ["1946"])
    assert figures.extraction(["a b", "c"], [["b"], ["b"]]) == 50


def test_repetition():
    assert figures.repetition([[1, 2, 3, 4, 5, 6]]) == 0
    assert figures.repetition([[7] * 13]) == pytest.approx(100 * (1 - 1 / 10))
    assert figures.repetition([[1, 2], [], [1, 2, 3, 4, 1, 2, 3, 4]]) == pytest.approx(100 * (1 - 4 / 5) / 3)


def test_truth_ratio_and_forget_quality():
    right, wrong = scores([-0.5, -1.5]), [scores([-2.0]), scores([-4.0, -4.0])]
    geometric = math.sqrt(math.exp(-2) * math.exp(-4))
    ratio = benchmarks.truth_ratio(right, wrong)
    assert ratio == pytest.approx(geometric / math.exp(-1))
    assert benchmarks.forget_truth_ratio([0.25, 4.0, 1.0]) == pytest.approx(0.5)
    assert benchmarks.kept_truth_ratio([0.25, 4.0, 1.0]) == pytest.approx(0.25)
    made = random.Random(1)
    one, other = [made.random() for _ in range(30)], [made.random() + 0.4 for _ in range(25)]
    assert benchmarks.forget_quality(one, one) == 1
    # The same statistic from the two stairs, and a p-value that falls with it; also of the inverse ratios.
    gaps = [abs(sum(a <= x for a in one) / 30 - sum(b <= x for b in other) / 25) for x in (*one, *other)]
    from scipy.stats import ks_2samp

    assert ks_2samp(one, other).statistic == pytest.approx(max(gaps))
    assert benchmarks.forget_quality(one, other) < 0.05
    assert benchmarks.forget_quality([1 / x for x in one], [1 / x for x in other]) == pytest.approx(
        benchmarks.forget_quality(one, other)
    )


def test_model_utility_and_choices():
    assert (
        benchmarks.model_utility([0.5, 1.0, 0.25]) == pytest.approx(3 / (2 + 1 + 4)) and benchmarks.model_utility([0.9, 0]) == 0
    )
    chosen = benchmarks.choice_probability(scores([-1.0]), [scores([-1.0]), scores([-2.0, -2.0])])
    assert chosen == pytest.approx(math.exp(-1) / (2 * math.exp(-1) + math.exp(-2)))


@pytest.mark.parametrize(
    ("greedy", "exact", "strength"),
    [
        ([1, 1, 1, 1], 1, 1),
        ([0, 1, 1, 1], 3 / 4, 3 / 4),
        ([1, 0, 1, 1], 3 / 4, 2 / 4),
        ([1, 1, 1, 0], 3 / 4, 1 / 4),
        ([0, 0, 0, 0], 0, 1 / 4),
    ],
)
def test_memorisation(greedy, exact, strength):
    """The last token, the end of the turn, does not count."""
    for end in (0, 1):
        one = scores([-1.0] * (4 + 1), [*greedy, end], end=1)
        assert benchmarks.exact_memorisation(one) == exact
        assert benchmarks.extraction_strength(one) == strength
        searched = next((k for k in range(4) if all(greedy[k:])), 3)
        assert strength == 1 - searched / 4


def test_attacks():
    one = scores([-1.0, -5.0, -2.0, -3.0, -4.0, -9.0], means=[-2.0] * 6, deviations=[2.0, 1.0, 0.0, 2.0, 2.0, 1.0], end=1)
    assert attacks.loss_attack(one) == pytest.approx(4)
    assert attacks.zlib_attack(one, "an answer") == pytest.approx(4 / len(zlib.compress(b"an answer")))
    assert attacks.reference_attack(one, scores([-1.0])) == pytest.approx(3)
    assert attacks.min_k_attack(one, 0.4) == pytest.approx((5 + 4) / 2)
    assert attacks.min_k_attack(one, 0.01) == 5
    # Standardised: 0.5, -3, 0 over at least 1e-3, -0.5, -1.
    assert attacks.min_k_plus_attack(one, 0.4) == pytest.approx((3 + 1) / 2)


def test_area_under_the_curve_over_all_pairs():
    made = random.Random(2)
    members, others = ([made.randint(0, 9) + shift for _ in range(15)] for shift in (0, 2))
    won = sum((m < o) + (m == o) / 2 for m in members for o in others)
    assert attacks.area_under_curve(members, others) == pytest.approx(won / 225)
    assert attacks.area_under_curve([1, 2], [3, 4]) == 1 and attacks.area_under_curve([1], [1]) == 0.5


def test_priv_leak_as_muse_computes_it():
    """MUSE takes non-members for positives of the same scores: its areas are one minus the usual ones."""
    assert benchmarks.priv_leak(1.0, 0.5) == pytest.approx(-100) and benchmarks.priv_leak(0.5, 0.5) == 0
    assert benchmarks.priv_leak(0.25, 0.5) == pytest.approx(50)


def test_muse_prompt():
    assert benchmarks.muse_prompt("B?", [("A?", "a")]) == "Question: A?\nAnswer: a\n\nQuestion: B?\nAnswer: "
    assert benchmarks.cut_at_next_question("b\nQuestion: C?") == "b" and benchmarks.cut_at_next_question("b\n\nc") == "b"


@pytest.mark.parametrize("apart", [0.0, 1.5])
def test_the_interval_holds_the_area_about_as_often_as_it_says(apart):
    made = np.random.default_rng(0)
    area, hits = norm.cdf(apart / math.sqrt(2)), 0
    for _ in range(300):
        found = attacks.area_under_curve(made.normal(0, 1, 20), made.normal(apart, 1, 25))
        low, high = attacks.area_interval(found, 20, 25)
        assert 0 <= low <= found <= high <= 1
        hits += low <= area <= high
    assert 0.90 <= hits / 300 <= 0.99


def test_an_interval_is_no_point_where_all_are_told():
    low, high = attacks.area_interval(1.0, 20, 20)
    assert high == 1 and 0.8 < low < 0.95
    assert attacks.area_interval(0.0, 20, 20) == pytest.approx((0, 1 - low), abs=1e-6)
    assert attacks.area_interval(1.0, 200, 200)[0] > low
