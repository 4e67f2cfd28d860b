"""All figures of one model: what it finds likely, what it says, and what is left when it is disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedTokenizerBase

from ...report.intervals import wilson_interval
from . import answer_figures as figures
from . import benchmark_figures as benchmarks
from . import membership_figures as attacks
from .answer_scores import TokenScores, score_answers
from .audit_settings import LanguageAuditSettings
from .greedy_answers import greedy_answers, in_words
from .language_sets import TEXT_CONTINUATION, AskedSet, AuditSets, prompt_and_continuation
from .relearning import relearned, split_for_relearning
from .rounded_weights import weights_rounded
from .text_rows import EncodedText


Tell = Callable[[str], None]


@dataclass
class Measured:
    """
    What was found of one model, and what it is compared by with others.

    Args:
        figures (`dict[str, float]`, *optional*):
            By name.
        intervals (`dict[str, list[float]]`, *optional*):
            Of some of them.
        answers (`list[str]`, *optional*):
            To the forget set's questions.
        ratios (`list[float]`, *optional*):
            Truth ratios on the forget set.
        utility (`dict[str, float]`, *optional*):
            The parts of the model utility.
        scores (`dict[str, list[TokenScores]]`, *optional*):
            Of the "forget" and the "holdout" set.
    """

    figures: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    utility: dict[str, float] = field(default_factory=dict)
    scores: dict[str, list[TokenScores]] = field(default_factory=dict)


class ModelMeasure:
    """
    Measures one model, stage by stage; it has to be in evaluation mode.

    Args:
        model (`nn.Module`):
            A causal language model. Stages that change it change it back.
        tokenizer (`PreTrainedTokenizerBase`):
            Of the model.
        sets (`AuditSets`):
            What is asked.
        settings (`LanguageAuditSettings`):
            How.
        tell (`Callable[[str], None]`):
            Is told the name of each stage before it.
    """

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, sets: AuditSets, settings: LanguageAuditSettings, tell: Tell
    ):
        self.model, self.tokenizer, self.sets, self.settings, self.tell = model, tokenizer, sets, settings, tell
        self.found = Measured()

    def measure(self) -> Measured:
        """All stages."""
        for stage, run in self.stages():
            self.tell(stage)
            run()
        return self.found

    def reference(self) -> Measured:
        """What the reference attack compares with, and no more."""
        self.tell("membership")
        self.found.scores["forget"] = self._score(self.sets.forget.encoded)
        self._membership()
        return self.found

    def stages(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Names and calls of what there is to measure."""
        yield "forget", lambda: self._set(self.sets.forget)
        yield "retain", lambda: self._set(self.sets.retain)
        if self.sets.utility:
            yield "utility", self._utility_sets
        if self.sets.holdout is not None:
            yield "membership", self._membership
        if self.sets.general is not None:
            yield "general", self._general
        for kind, texts in self.sets.forget.others.items():
            yield kind, lambda kind=kind, texts=texts: self._asked(kind, texts, range(len(texts)))
        if self.settings.muse:
            yield "knowmem", self._knowmem
        if self.settings.relearn_steps:
            yield "relearning", self._relearning
        for bits in self.settings.rounding:
            yield f"int{bits}", lambda bits=bits: self._rounded(bits)

    # ---- Answers ----

    def _score(self, texts: Sequence[EncodedText]) -> list[TokenScores]:
        return score_answers(self.model, texts, self.settings.batch_size)

    def _say(self, texts: Sequence[EncodedText]) -> tuple[list[list[int]], list[str]]:
        """Greedy answers as tokens and as text."""
        prompts = [prompt_and_continuation(text)[0] for text in texts]
        answers = greedy_answers(self.model, self.tokenizer, prompts, self.settings.max_new_tokens, self.settings.batch_size)
        return answers, in_words(self.tokenizer, answers)

    def _expected(self, texts: Sequence[EncodedText]) -> list[str]:
        return in_words(self.tokenizer, [prompt_and_continuation(text)[1] for text in texts])

    def _set(self, asked: AskedSet) -> None:
        """The figures that are taken of the forget and the retain set alike."""
        found, name = self.found, asked.name
        scores = self._score(asked.encoded)
        found.figures[f"{name} loss"] = figures.mean_loss(scores)
        found.figures[f"{name} probability"] = figures.mean_probability(scores)
        said, answers = self._say(asked.encoded)
        rouge = figures.rouge_l(answers, self._expected(asked.encoded))
        found.figures[f"{name} ROUGE-L"] = figures.mean([recall for recall, _ in rouge])
        if asked.facts is not None:
            self._extraction(name, answers, asked.facts)
        found.figures[f"{name} extraction strength"] = figures.mean([benchmarks.extraction_strength(one) for one in scores])
        found.figures[f"{name} exact memorisation"] = figures.mean([benchmarks.exact_memorisation(one) for one in scores])
        ratios = self._ratios(asked)
        if name == "forget":
            found.answers, found.scores["forget"], found.ratios = answers, scores, ratios
            if ratios:
                found.figures["forget truth ratio"] = benchmarks.forget_truth_ratio(ratios)
            if all(text.is_text for text in asked.encoded) or (self.settings.muse and _plain_prompts(asked)):
                found.figures["VerbMem"] = self._verbmem(asked)
        else:
            found.utility |= {
                f"{name} probability": found.figures[f"{name} probability"],
                f"{name} ROUGE-L": found.figures[f"{name} ROUGE-L"],
            }
            if ratios:
                found.figures[f"{name} truth ratio"] = benchmarks.kept_truth_ratio(ratios)
                found.utility[f"{name} truth ratio"] = found.figures[f"{name} truth ratio"]
                found.figures["model utility"] = benchmarks.model_utility(list(found.utility.values()))
        found.figures[f"{name} repetition"] = figures.repetition(said)

    def _wrong(self, asked: AskedSet) -> list[list[TokenScores]]:
        flat = iter(self._score([text for texts in asked.wrong for text in texts]))
        return [[next(flat) for _ in texts] for texts in asked.wrong]

    def _ratios(self, asked: AskedSet) -> list[float]:
        if asked.wrong is None or asked.right is None:
            return []
        pairs = zip(self._score(asked.right), self._wrong(asked), strict=True)
        return [benchmarks.truth_ratio(right, wrong) for right, wrong in pairs]

    def _utility_sets(self) -> None:
        """TOFU's sets of the real world: the answer's likelihood among those to choose from, ROUGE-L and truth ratio."""
        for name, asked in self.sets.utility.items():
            wrong = self._wrong(asked)
            right = self._score(asked.encoded)
            chosen = [benchmarks.choice_probability(one, others) for one, others in zip(right, wrong, strict=True)]
            rouge = figures.rouge_l(self._say(asked.encoded)[1], self._expected(asked.encoded))
            self.found.utility |= {
                f"{name} probability": figures.mean(chosen),
                f"{name} ROUGE-L": figures.mean([recall for recall, _ in rouge]),
                f"{name} truth ratio": benchmarks.kept_truth_ratio(self._ratios(asked)),
            }
        self.found.figures["model utility"] = benchmarks.model_utility(list(self.found.utility.values()))

    def _asked(self, kind: str, texts: list[EncodedText], places: Sequence[int]) -> None:
        """ROUGE-L and extraction of forget answers that are asked for in another way; `places` in the forget set."""
        _, answers = self._say(texts)
        rouge = figures.rouge_l(answers, self._expected(texts))
        self.found.figures[f"{kind} ROUGE-L"] = figures.mean([recall for recall, _ in rouge])
        facts = self.sets.forget.facts
        if facts is not None:
            self._extraction(kind, answers, [facts[place] for place in places])

    def _extraction(self, kind: str, answers: Sequence[str], facts: Sequence[Sequence[str]]) -> None:
        share = figures.extraction(answers, facts)
        ends = wilson_interval(round(share / 100 * len(answers)), len(answers))
        self.found.figures[f"{kind} extraction"] = share
        self.found.intervals[f"{kind} extraction"] = [100 * end for end in ends]

    # ---- Membership, general texts, MUSE ----

    def _membership(self) -> None:
        self.found.scores["holdout"] = self._score(self.sets.holdout.encoded)

    def _general(self) -> None:
        texts = self.sets.general
        self.found.figures["perplexity"] = figures.perplexity(self._score(texts))
        self.found.figures["general repetition"] = figures.repetition(self._say(texts)[0])

    def _verbmem(self, asked: AskedSet) -> float:
        """MUSE compares 128 tokens; a text that has ended before says nothing of what comes after it."""
        prompts, expected = zip(*map(prompt_and_continuation, asked.encoded), strict=True)
        said = greedy_answers(self.model, self.tokenizer, prompts, TEXT_CONTINUATION, self.settings.batch_size)
        expected = [tokens[:TEXT_CONTINUATION] for tokens in expected]
        rows = zip(said, expected, asked.encoded, strict=True)
        said = [answer[: len(tokens)] if text.is_text else answer for answer, tokens, text in rows]
        scores = figures.rouge_l(in_words(self.tokenizer, said), in_words(self.tokenizer, expected), stemmed=False)
        return 100 * figures.mean([f1 for _, f1 in scores])

    def _knowmem(self) -> None:
        shots = [(shot.question, shot.answer) for shot in self.sets.shots]
        for name, asked in (("KnowMem", self.sets.forget), ("retain KnowMem", self.sets.retain)):
            if any(text.is_text for text in asked.encoded) or _plain_prompts(asked):
                continue
            prompts = [self.tokenizer(benchmarks.muse_prompt(row.question, shots))["input_ids"] for row in asked.rows]
            said = in_words(self.tokenizer, greedy_answers(self.model, self.tokenizer, prompts, 32, self.settings.batch_size))
            answers = [benchmarks.cut_at_next_question(answer) for answer in said]
            scores = figures.rouge_l(answers, [row.answer for row in asked.rows], stemmed=False)
            self.found.figures[name] = 100 * figures.mean([f1 for _, f1 in scores])

    # ---- The model disturbed ----

    def _relearning(self) -> None:
        settings, encoded = self.settings, self.sets.forget.encoded
        taught, others = split_for_relearning(len(encoded), settings.relearn_examples, settings.seed)
        lessons = [encoded[place] for place in taught]
        with relearned(self.model, lessons, settings.relearn_steps, settings.relearn_learning_rate, settings.batch_size):
            self._asked("relearned", [encoded[place] for place in others], others)

    def _rounded(self, bits: int) -> None:
        with weights_rounded(self.model, bits):
            self._asked(f"int{bits}", self.sets.forget.encoded, range(len(self.sets.forget)))


def _plain_prompts(asked: AskedSet) -> bool:
    return all(isinstance(row.prompt, str) and row.prompt for row in asked.rows)


def attack_scores(
    name: str, found: Measured, sets: AuditSets, settings: LanguageAuditSettings, reference: Measured | None
) -> dict[str, list[float]]:
    """An attack's scores of the "forget" and the "holdout" set; see [`membership_figures`]."""
    parts = {"forget": sets.forget, "holdout": sets.holdout}
    result = {}
    for part, asked in parts.items():
        scores = found.scores[part]
        match name:
            case "loss":
                result[part] = [attacks.loss_attack(one) for one in scores]
            case "zlib":
                result[part] = [attacks.zlib_attack(one, row.answer) for one, row in zip(scores, asked.rows, strict=True)]
            case "Min-K%":
                result[part] = [attacks.min_k_attack(one, settings.min_k) for one in scores]
            case "Min-K%++":
                result[part] = [attacks.min_k_plus_attack(one, settings.min_k) for one in scores]
            case "reference":
                result[part] = [attacks.reference_attack(*pair) for pair in zip(scores, reference.scores[part], strict=True)]
    return result
