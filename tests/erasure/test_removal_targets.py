"""What the objective "removal" asks for: its formula and posterior against a known mixture, its neighbours, its examples."""

import logging
import math
from types import SimpleNamespace

import pytest
import torch
from quick_removal import QUICK, SAMPLING, prepare
from tiny_pipelines import tiny_stable_diffusion

from scissorhands_hf.erasure import prompts
from scissorhands_hf.erasure.concept_types import ConceptType
from scissorhands_hf.erasure.families import NoiseProcess
from scissorhands_hf.erasure.kept_prompts import KeptWords, nearest
from scissorhands_hf.erasure.material import Material, gather_material, make_examples
from scissorhands_hf.erasure.noisy_examples import NoisyExamples, PromptTable, collate
from scissorhands_hf.erasure.objectives import capped_odds, negative_guidance, without_concept
from scissorhands_hf.erasure.posterior import TIMES, Posterior
from scissorhands_hf.erasure.recognition import Recognition
from scissorhands_hf.erasure.request import ErasureRequest
from scissorhands_hf.trainer.run_progress import Reporter


# ---- A mixture of two normal distributions, of which everything is known ----

SHARE, CENTRES, WIDTH = 0.2, (torch.tensor([4.0, 2.0, 0.0]), torch.tensor([-2.0, 0.0, 2.0])), 0.7  # the concept's first


def densities(noisy, signal, spread):
    """Of each part at noisy points (n, 3), float64, with the parts' shares."""
    variance = signal**2 * WIDTH**2 + spread**2
    return [
        share * torch.exp(-(noisy - signal * centre).square().sum(1) / (2 * variance)) / variance**1.5
        for share, centre in zip((SHARE, 1 - SHARE), CENTRES, strict=True)
    ]


def predicted_noise(noisy, signal, spread, part):
    """Of the best possible denoiser that knows the part."""
    variance = signal**2 * WIDTH**2 + spread**2
    return spread * (noisy - signal * CENTRES[part]) / variance


def predicted_without_words(noisy, signal, spread):
    concept, rest = densities(noisy, signal, spread)
    gamma = (concept / (concept + rest))[:, None]
    return gamma * predicted_noise(noisy, signal, spread, 0) + (1 - gamma) * predicted_noise(noisy, signal, spread, 1)


def test_the_target_is_what_a_model_without_the_concept_predicts():
    noisy = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.5
    signal, spread = 0.6, 0.8
    concept, rest = densities(noisy, signal, spread)
    eta = capped_odds((concept / (concept + rest)).log(), math.inf)
    assert torch.allclose(eta, concept / rest, rtol=1e-6)
    target = without_concept(predicted_noise(noisy, signal, spread, 0), predicted_without_words(noisy, signal, spread), eta)
    assert torch.allclose(target, predicted_noise(noisy, signal, spread, 1), atol=1e-8)


def test_odds_are_capped_where_nothing_else_can_be_seen():
    found = capped_odds(torch.tensor([0.5, 0.75, 1.0, 1e-9], dtype=torch.float64).log(), 2.0)
    assert found.tolist() == pytest.approx([1.0, 2.0, 2.0, 1e-9])


def test_a_strength_for_each_is_the_strength_of_each():
    first, second = torch.randn(2, 3, 4, 2, 2)
    eta = torch.tensor([0.0, 1.0, 2.5])
    together = negative_guidance(first, second, eta)
    alone = [negative_guidance(first[n], second[n], eta[n].item()) for n in range(3)]
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)


def mixture_gains(noise, times, pictures, repeats):
    gains = torch.zeros(len(pictures), len(times), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for column, time in enumerate(times):
        signal = noise.alphas_cumprod[time].double().sqrt()
        spread = (1 - noise.alphas_cumprod[time].double()).sqrt()
        for _ in range(repeats):
            added = torch.randn(pictures.shape, generator=generator, dtype=torch.float64)
            noisy = signal * pictures + spread * added
            errors = [
                (prediction - added).square().sum(1)
                for prediction in (predicted_without_words(noisy, signal, spread), predicted_noise(noisy, signal, spread, 0))
            ]
            gains[:, column] += (errors[0] - errors[1]) / repeats
    return gains


def test_the_posterior_of_the_losses_is_that_of_bayes():
    noise = NoiseProcess("epsilon", torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0))
    generator = torch.Generator().manual_seed(2)
    concept = CENTRES[0] + WIDTH * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    others = CENTRES[1] + WIDTH * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    times = noise.grid(TIMES)
    own = Posterior(noise, times, mixture_gains(noise, times, concept, 60))
    rest = Posterior(noise, times, mixture_gains(noise, times, others, 60), own)
    assert own.share == pytest.approx(SHARE, abs=0.05)
    assert (own.without_noise() > 0.5).float().mean() > 0.9 and (rest.without_noise() < 0.5).float().mean() > 0.9
    # Against the expected log posterior, by brute force, at times between those that were looked at.
    for time in (600, 700, 800, 950):
        signal = noise.alphas_cumprod[time].double().sqrt()
        spread = (1 - noise.alphas_cumprod[time].double()).sqrt()
        noisy = signal * concept[:, None] + spread * torch.randn(60, 500, 3, generator=generator, dtype=torch.float64)
        first, second = densities(noisy.flatten(0, 1), signal, spread)
        truth = (first / (first + second)).log().view(60, 500).mean(1)
        found = own.at(torch.full((60,), time), torch.arange(60))
        assert (found - truth).abs().median() < 0.3
        assert own.at(torch.tensor([time])).exp().item() == pytest.approx(truth.median().exp().item(), abs=0.12)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_errors_of_every_kind_of_prediction_are_turned_into_those_of_the_picture(kind):
    alphas = None if kind == "flow" else torch.linspace(0.99, 0.01, 100)
    noise = NoiseProcess(kind, alphas)
    time = torch.tensor([0.3]) if kind == "flow" else torch.tensor([30])
    signal, spread = (0.7, 0.3) if kind == "flow" else (alphas[30].sqrt().item(), (1 - alphas[30]).sqrt().item())
    picture, added = torch.randn(2, 1, 1, 1, 5)
    noisy, truth = noise.add_noise(picture, added, time), noise.target(picture, added, time)
    predicted = truth + 0.1
    shown = {
        "epsilon": (noisy - spread * predicted) / signal,
        "v_prediction": signal * noisy - spread * predicted,
        "sample": predicted,
        "flow": noisy - spread * predicted,
    }[kind]
    expected = (shown - picture).square().sum().item()
    assert (0.01 * 5) * noise.picture_error(time).item() == pytest.approx(expected, rel=1e-3)
    assert noise.signal_to_noise(time).item() == pytest.approx((signal / spread) ** 2, rel=1e-5)
    grid = noise.grid(5)
    assert (
        len(grid) == 5
        and bool((grid[1:] > grid[:-1]).all())
        and grid.dtype == noise.sample_timesteps(1, torch.Generator()).dtype
    )


# ---- What it is made from ----


def test_some_examples_are_asked_for_without_words():
    noise = NoiseProcess("epsilon", torch.linspace(0.99, 0.01, 100))
    latents, prompts = torch.randn(4, 1, 2, 2), torch.tensor([5, 6, 7, 8])
    plain = NoisyExamples(latents, prompts, prompts, noise, 400, 0)
    mixed = NoisyExamples(latents, prompts, prompts, noise, 400, 0, empty_share=0.25, empty=3)
    assert torch.equal(plain.pictures, mixed.pictures) and torch.equal(plain.timesteps, mixed.timesteps)
    batch = collate([mixed[index] for index in range(400)])
    assert 70 < int((batch["prompt"] == 3).sum()) < 130
    assert torch.equal(batch["words"], prompts[batch["picture"]])
    named = batch["prompt"] != 3
    assert torch.equal(batch["prompt"][named], batch["words"][named])


def test_neighbours_are_what_the_model_begins_alike():
    kept = KeptWords(["dress"], [], [], [], None, [], ["bag", "gown", "coat", "boot", "shirt"], ["scarlet", "blue", "green"])
    place = {"dress": 0, "gown": 0, "coat": 1, "shirt": 2, "bag": 5, "boot": 9, "red": 0, "scarlet": 0, "green": 1, "blue": 3}

    def distance(prompt, other):
        words = [[place[word] for word in text.split() if word in place] for text in (prompt, other)]
        return float(sum(abs(a - b) for a, b in zip(*words, strict=True)))

    # Not the same by another name.
    assert nearest("dress", False, kept, distance, 2) == {"coat": 1.0, "shirt": 2.0}
    assert list(nearest("red", True, kept, distance, 2)) == ["green", "blue"]


def test_pictures_are_taken_for_the_nearest_and_twice_as_many_are_kept(monkeypatch):
    seen = []
    retain_prompts = prompts.retain_prompts
    monkeypatch.setattr(prompts, "retain_prompts", lambda kept, *rest: (seen.append(kept), retain_prompts(kept, *rest))[1])
    config = {**QUICK, "neighbours": 1}
    request = ErasureRequest(tiny_stable_diffusion(), "dress", sampling=SAMPLING, config=config)
    assert {len(texts) for texts in request.prompts.others.values()} == {1} and len(request.prompts.neighbours) == 1
    kept = seen[0].neighbours
    assert list(kept)[0] == request.prompts.neighbours[0] and len(kept) == 2
    assert kept[request.prompts.neighbours[0]] == max(kept.values()) and sum(kept.values()) == pytest.approx(2)


@torch.no_grad()
def predictions(family, batch, table, rows):
    return family.predict(family.denoiser, batch["noisy"], batch["timesteps"], table[rows])


def test_the_targets_of_a_run_are_the_formula_of_the_originals_predictions():
    request, material, (retain, forget, _, _) = prepare(
        tiny_stable_diffusion(), removal_target="bayes", removal_strength=1.5, removal_cap=1.0
    )
    family, table = request.family, material.table
    batch = collate([forget[index] for index in range(len(forget))])
    empty = torch.full_like(batch["prompt"], table.rows[""])
    assert {int(row) for row in batch["prompt"]} > {table.rows[""]}  # with words and without
    none, words = (predictions(family, batch, table, rows) for rows in (empty, batch["words"]))
    assert torch.allclose(batch["target"], none - 1.5 * (words - none), atol=1e-5)
    kept = collate([retain[index] for index in range(len(retain))])
    assert torch.allclose(kept["target"], predictions(family, kept, table, kept["prompt"]), atol=1e-5)


def test_without_a_constant_the_strength_is_the_odds_of_each_noisy_picture():
    request, material, (retain, forget, _, _) = prepare(
        tiny_stable_diffusion(), removal_target="bayes", removal_cap=0.8, max_steps=8
    )
    family, table = request.family, material.table
    recognition = Recognition.of(request, material)
    recognition.kept_alone(material)
    batch = collate([forget[index] for index in range(len(forget))])
    none, words = (
        predictions(family, batch, table, rows) for rows in (torch.full_like(batch["prompt"], table.rows[""]), batch["words"])
    )
    eta = capped_odds(recognition.own[0].at(batch["timesteps"]), 0.8)
    assert torch.allclose(batch["target"], negative_guidance(words, none, eta), atol=1e-5)
    kept = collate([retain[index] for index in range(len(retain))])
    own = predictions(family, kept, table, kept["prompt"])
    named = kept["prompt"] != table.rows[""]
    assert named.any() and not named.all()
    assert torch.allclose(kept["target"][named], own[named], atol=1e-5)


def test_pictures_are_taken_for_the_nearest_things_as_surely_as_they_show_the_concept():
    request, material, (retain, forget, _, _) = prepare(
        tiny_stable_diffusion(), max_steps=8, neighbours=2, removal_strength=1.25
    )
    family, table = request.family, material.table
    others = request.prompts.others["a photo of a dress"]
    assert others == [f"a photo of a {thing}" for thing in request.prompts.neighbours] and len(others) == 2
    recognition = Recognition.of(request, material)
    recognition.kept_alone(material)
    batch = collate([forget[index] for index in range(len(forget))])

    def under(batch, rows):
        return predictions(family, batch, table, torch.as_tensor(rows).expand(len(batch["prompt"])))

    none, first, second = (under(batch, table.rows[text]) for text in ("", *others))
    words = predictions(family, batch, table, batch["words"])
    gamma = recognition.own[0].at(batch["timesteps"]).exp().float().view(-1, 1, 1, 1)
    assert 0 < gamma.min() < gamma.max()
    assert torch.allclose(batch["target"], none + 1.25 * gamma * ((first + second) / 2 - words), atol=1e-5)
    # What is kept: as it was with words; without, a picture that may show the concept shows what its own words say.
    kept = collate([retain[index] for index in range(len(retain))])
    none, own = under(kept, table.rows[""]), predictions(family, kept, table, kept["words"])
    words = under(kept, table.rows[request.prompts.asking["dress"][0]])
    asked, named = kept["prompt"] != table.rows[""], kept["words"] != table.rows[""]
    assert asked.any() and (~asked & named).any()
    gamma = recognition.others[0].at(kept["timesteps"], kept["picture"]).exp().float().view(-1, 1, 1, 1)
    expected = torch.where(asked.view(-1, 1, 1, 1), own, none + gamma * (own - words))
    there = asked | named
    assert torch.allclose(kept["target"][there], expected[there], atol=1e-5)
    instead = sum(under(kept, table.rows[text]) for text in others) / 2
    assert torch.allclose(kept["target"][~there], (none + gamma * (instead - words))[~there], atol=1e-5)


@pytest.mark.parametrize(
    ("concept", "kind", "prompt", "expected", "known"),
    [
        ("red", "attribute", "a photo of a red coat", "a photo of a {} coat", ["blue"]),
        ("dress", None, "a dress", "a photo of a {}", ["coat", "bag"]),
    ],
)
def test_what_stands_in_for_a_prompt_is_what_it_asks_for_with_another_word(concept, kind, prompt, expected, known):
    config = {**QUICK, "neighbours": 3}
    request = ErasureRequest(tiny_stable_diffusion(), concept, concept_type=kind, sampling=SAMPLING, config=config)
    others = request.prompts.others
    assert set(others) == set(request.prompts.asking[concept])
    assert request.prompts.neighbours == known, "of three asked for all that the tokenizer knows"
    assert others[prompt] == [expected.format(word) for word in known]


def test_where_it_is_not_said_pictures_are_led_three_times_as_far_as_what_is_nearest():
    open_, said, nearest_alone = (
        prepare(tiny_stable_diffusion(), neighbours=2, **settings)[2][1].targets
        for settings in ({}, {"removal_strength": 3.0}, {"removal_strength": 1.0})
    )
    assert torch.equal(open_, said) and not torch.allclose(open_, nearest_alone, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, 250),
        ({"removal_least_noise": 0.6}, 600),
        ({"removal_least_noise": 0.0}, 0),
        ({"forget_objective": "negative_guidance"}, 0),
    ],
)
def test_where_words_say_nothing_there_are_examples_of_what_is_kept_alone(settings, first):
    config = {name: value for name, value in QUICK.items() if not name.startswith("adversarial")}
    config |= {"max_steps": 32, "per_device_forget_batch_size": 4, "evaluation_examples": 128, **settings}
    request = ErasureRequest(tiny_stable_diffusion(), "dress", sampling=SAMPLING, config=config)
    sets = make_examples(request, gather_material(request, Reporter(None, 0.0)), Reporter(None, 0.0))
    for examples, start in zip(sets, (0, first, 0, first), strict=True):
        assert start <= examples.timesteps.min() < start + 100 and examples.timesteps.max() > 900


def test_without_neighbours_bayes_rule_takes_their_place_and_the_report_says_so():
    request, material, (_, forget, _, _) = prepare(tiny_stable_diffusion(), neighbours=0, removal_strength=1.5, removal_cap=0.8)
    assert request.args.removal_target == "bayes" and request.args.removal_strength is None
    assert any("'dress' (neighbours=0" in text and "removal_target='bayes'" in text for text in request.warnings)
    recognition = Recognition.of(request, material)
    batch = collate([forget[index] for index in range(len(forget))])
    table = material.table
    none, words = (
        predictions(request.family, batch, table, rows)
        for rows in (torch.full_like(batch["prompt"], table.rows[""]), batch["words"])
    )
    eta = capped_odds(recognition.own[0].at(batch["timesteps"]), 0.8)
    assert torch.allclose(batch["target"], negative_guidance(words, none, eta), atol=1e-5)


def test_a_style_that_no_everyday_word_is_like_is_taken_from_the_things_that_have_it():
    own = {"a photo of a coat by Van Gogh": "a photo of a coat", "by Van Gogh": ""}
    kept = KeptWords.beside(["Van Gogh"], [], None, [], lambda words: words)
    style = ConceptType("style", "given", 1.0)
    found = prompts._neighbours_of(own, "Van Gogh", style, ["coat", "bag"], kept, compound=False)
    assert found == {
        "a photo of a coat by Van Gogh": ["a photo of a coat"],
        "by Van Gogh": ["a photo of a coat", "a photo of a bag"],
    }
    assert prompts._neighbours_of(own, "Van Gogh", style, [], kept, compound=False) == {}


def test_kept_pictures_that_show_the_concept_are_not_kept(caplog):
    request, material, _ = prepare(tiny_stable_diffusion(), retain_pictures=6)
    recognition = Recognition.of(request, material)
    recognition.shown = torch.tensor([False, False, True, False, True, False])
    with caplog.at_level(logging.INFO, logger="scissorhands_hf.erasure.recognition"):
        left = recognition.kept_alone(material)
    assert "2 of 6" in caplog.text
    kept = [0, 1, 3, 5]
    assert torch.equal(left.retain_latents, material.retain_latents[kept])
    assert left.retain_texts == [material.retain_texts[number] for number in kept]
    assert len(recognition.others[0].log_values) == 4 and not recognition.shown.any()
    # Where most show it, that says nothing of any.
    recognition = Recognition.of(request, material)
    recognition.shown = torch.ones(6, dtype=torch.bool)
    with caplog.at_level(logging.WARNING, logger="scissorhands_hf.erasure.recognition"):
        assert recognition.kept_alone(material) is material
    assert "6 of 6" in caplog.text
    empty = torch.full((2,), recognition.empty)
    batch = {"prompt": empty, "words": empty, "timesteps": torch.tensor([10, 900]), "picture": torch.tensor([0, 5])}
    target = recognition.kept_target(batch, lambda part, rows: torch.ones(len(rows), 1))
    assert target.tolist() == [[1.0], [1.0]]


class Named:
    """A denoiser that knows one thing of each picture: how far off it is with which words."""

    def __init__(self, noise, errors):
        self.noise, self.errors, self.denoiser = noise, errors, torch.nn.Identity()
        self.device = torch.device("cpu")

    def noise_process(self):
        return self.noise

    def predict(self, denoiser, noisy, timesteps, conditioning):
        # The pictures' first value is a number that the noise is small beside.
        picture = (noisy[:, 0, 0, 0] / self.noise.alphas_cumprod[timesteps].sqrt() / 1000).round().int()
        off = torch.tensor([self.errors[int(n), int(row)] for n, row in zip(picture, conditioning["row"], strict=True)])
        truth = (noisy - self.noise.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1) * 1000 * picture.view(-1, 1, 1, 1)) / (
            1 - self.noise.alphas_cumprod[timesteps]
        ).sqrt().view(-1, 1, 1, 1)
        return truth + off.view(-1, 1, 1, 1)


def test_a_picture_shows_what_its_own_words_say_if_they_say_more_than_the_concepts():
    noise = NoiseProcess("epsilon", torch.linspace(0.98, 0.02, 100))
    rows = {"": 0, "dress": 1, "coat": 2}
    # With the empty prompt all are off by 1. Picture 1 and 2 are the concept's; 3 no words but "coat" help with; "dress" helps
    # with 4 and 5, and "coat" more with 5.
    errors = {(n, 0): 1.0 for n in range(1, 7)}
    errors |= {(n, 1): 0.2 for n in (1, 2, 4, 5, 6)} | {(3, 1): 1.5}
    errors |= {(1, 2): 1.0, (2, 2): 1.0, (3, 2): 0.1, (4, 2): 0.6, (5, 2): 0.1, (6, 2): 1.0}
    pictures = torch.arange(1, 7).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2) * 1000
    table = PromptTable(rows, {"row": torch.arange(3)})
    family = Named(noise, errors)
    material = Material(pictures[:2], ["dress"] * 2, pictures[2:], ["coat", "coat", "coat", ""], table, None, 0.0)
    request = SimpleNamespace(
        family=family,
        args=SimpleNamespace(seed=0, removal_target="bayes", removal_cap=3.0, removal_strength=None),
        prompts=SimpleNamespace(asking={"dress": ["dress"]}),
    )
    assert Recognition.of(request, material).shown.tolist() == [False, True, False, True]


def test_each_kept_picture_without_words_is_taken_for_its_own_words_or_for_the_nearest():
    certain = SimpleNamespace(at=lambda times, pictures: torch.zeros(len(times)))  # log 1: all show the concept
    recognition = Recognition(
        own=[], others=[certain], concept_of=torch.tensor([0]), words=torch.tensor([1]), empty=0, shown=torch.zeros(5).bool(),
        cap=3.0, stand_ins={1: torch.tensor([2, 3])},
    )  # fmt: skip
    batch = {
        "prompt": torch.tensor([0, 0, 7, 0, 0]),  # one has words
        "words": torch.tensor([0, 5, 7, 0, 6]),  # what each shows; of two nobody knows
        "picture": torch.arange(5),
        "timesteps": torch.zeros(5, dtype=torch.int64),
    }

    def predict(part, rows):
        return (100 * rows * rows + part["picture"])[:, None].float()  # tells rows and pictures

    target = recognition.kept_target(batch, predict)[:, 0]
    nearest = 100 * (4 + 9) / 2
    # What is said without words, and in it the concept's part (row 1) given to the other.
    instead = [nearest, 2500, None, nearest, 3600]
    expected = [4900 + 2 if part is None else picture + part - 100 for picture, part in enumerate(instead)]
    assert target.tolist() == expected
