"""The objective "removal" at work: its adversary, its runs, its settings."""

import logging
import math
import sys

import pytest
import torch
from quick_removal import QUICK, SAMPLING, prepare
from tiny_pipelines import tiny_flux, tiny_pixart, tiny_sd3, tiny_sdxl, tiny_stable_diffusion

from scissorhands_hf import erase_concept
from scissorhands_hf.core import GradientMemory, renew_memories
from scissorhands_hf.erasure import ConceptErasureConfig, settings
from scissorhands_hf.erasure.adversarial_states import AdversarialStates
from scissorhands_hf.erasure.erase import first_attacks
from scissorhands_hf.erasure.erasure_trainer import ConceptErasureTrainer
from scissorhands_hf.erasure.families import family_of
from scissorhands_hf.erasure.noisy_examples import PromptTable, collate
from scissorhands_hf.erasure.request import ErasureRequest
from scissorhands_hf.erasure.settings import build_config


# ---- The adversary ----


@pytest.mark.parametrize("make", [tiny_stable_diffusion, tiny_sdxl, tiny_sd3])
def test_adversarial_states_bring_the_concept_nearer_and_no_prompt_changes(make):
    pipe = make()
    family = family_of(pipe)
    table = PromptTable.encode(family, ["", "a photo of a dress"])
    before = {name: value.clone() for name, value in table.conditioning.items()}
    adversary = AdversarialStates(table, ["", "a photo of a dress"])
    assert adversary.rows.tolist() == [2, 3]
    latents = family.sample_latents(["dress", "dress"], [0, 1], SAMPLING).float()
    process = family.noise_process()
    times = process.grid(3)[[1, 1]]
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noisy, truth = process.add_noise(latents, noise, times), process.target(latents, noise, times)

    def loss(states, step):
        return (family.predict(family.denoiser, noisy, times, states) - truth).square().mean()

    with torch.no_grad():
        first = loss(table[adversary.rows], 0).item()
    adversary.renew(loss, 12)
    with torch.no_grad():
        assert loss(table[adversary.rows], 0).item() < first
    assert all(torch.equal(table.conditioning[name][:2], value) for name, value in before.items())
    changed = {name for name, value in table.conditioning.items() if not torch.equal(value[2:], before[name])}
    assert changed == {name for name, value in before.items() if value.is_floating_point()}
    assert all(parameter.grad is None for parameter in family.denoiser.parameters())


def trainer_of(pipe, tmp_path, **settings):
    request, material, examples = prepare(pipe, **settings)
    request.args.output_dir = str(tmp_path)
    adversary = AdversarialStates(material.table, ["", "dress"])
    trainer = ConceptErasureTrainer(request.family, request.args, *examples, material.table, callbacks=[], adversary=adversary)
    trainer.measure_references()
    return trainer


def test_some_of_the_forget_batch_are_asked_for_under_attack_and_both_halves_at_once(tmp_path):
    trainer = trainer_of(tiny_stable_diffusion(), tmp_path, adversarial_share=0.5)
    trainer._attacks = torch.Generator().manual_seed(0)
    retain, forget = trainer.train_dataset, trainer.forget_dataset
    pair = {"retain": collate([retain[n] for n in range(4)]), "forget": collate([forget[n] for n in range(4)])}
    asked = []
    predict = trainer._predict

    def watched(model, batch, rows):
        asked.append(rows.tolist())
        return predict(model, batch, rows)

    trainer._predict = watched
    together = trainer.compute_loss(trainer.model, pair)
    (rows,) = asked
    attacked = set(trainer.adversary.rows.tolist())
    assert rows[:4] == pair["retain"]["prompt"].tolist()
    own = pair["forget"]["prompt"].tolist()
    assert sum(row in attacked for row in rows[4:]) == 2
    assert all(row in attacked or row == before for row, before in zip(rows[4:], own, strict=True))
    apart = sum(
        (predict(trainer.model, pair[part], torch.tensor(own)) - pair[part]["target"]).square().mean() * weight
        for part, own, weight in (("retain", rows[:4], 1.0), ("forget", rows[4:], trainer.args.forget_weight))
    )
    assert together.item() == pytest.approx(apart.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("share", "size", "expected"), [(0.25, 12, 3), (0.25, 1, 0.25), (0.3, 4, 1.2), (0.0, 4, 0), (1.0, 4, 4)]
)
def test_on_average_the_share_is_met_whatever_the_batch(share, size, expected, tmp_path):
    trainer = trainer_of(tiny_stable_diffusion(), tmp_path, adversarial_share=share)
    batch = {"prompt": torch.zeros(size, dtype=torch.int64)}
    counts, places = [], torch.zeros(size)
    for step in range(300):
        trainer._attacks = torch.Generator().manual_seed(step)
        under_attack = torch.isin(trainer._under_attack(batch)["prompt"], trainer.adversary.rows)
        counts.append(int(under_attack.sum()))
        places += under_attack
    assert set(counts) <= {math.floor(expected), math.ceil(expected)}
    assert sum(counts) / 300 == pytest.approx(expected, abs=0.1)
    assert (places / 300 - expected / size).abs().max() < 0.12  # no place in the batch is spared
    assert not batch["prompt"].any()


def test_each_micro_batch_of_a_step_has_attacks_of_its_own_and_the_same_seed_the_same(tmp_path):
    trainer = trainer_of(tiny_stable_diffusion(), tmp_path, adversarial_share=0.5, projection=False)
    batch = {"prompt": torch.zeros(16, dtype=torch.int64)}

    def two_steps():
        drawn = []
        for trainer.state.global_step in (0, 0, 1):
            trainer.begin_step()
            drawn += [trainer._under_attack(batch)["prompt"].tolist() for _ in range(2)]
        return drawn

    trainer.adversary.renew = lambda loss, steps: 0.0
    drawn = two_steps()
    assert drawn[0] != drawn[1] and drawn[:2] == drawn[2:4] and drawn[:2] != drawn[4:]


def test_the_adversary_is_renewed_in_the_course_of_a_run(tmp_path):
    trainer = trainer_of(tiny_stable_diffusion(), tmp_path, adversarial_every=2, max_steps=5, logging_steps=1)
    seen = []
    renew = trainer.adversary.renew
    trainer.adversary.renew = lambda loss, steps: seen.append((trainer.state.global_step, steps)) or renew(loss, steps)
    trainer.train()
    assert seen == [(0, 2), (2, 2), (4, 2)]
    assert trainer.record.seconds["adversary"] > 0


def test_a_memory_in_parts_of_a_steps_size_is_the_gradient_of_all_its_examples(tmp_path):
    pipe = tiny_stable_diffusion()
    trainer = trainer_of(pipe, tmp_path, max_steps=8, per_device_train_batch_size=2, per_device_forget_batch_size=3)
    indices = [5, 0, 3, 2, 7, 1, 4, 9, 8, 6, 11]  # two parts of 5 and a last one of 1
    (parts,) = trainer.shared_forget_losses([indices], trainer.memory_examples_at_once)
    assert trainer.memory_examples_at_once == 5 and len(parts) == 3
    parameters = dict(pipe.unet.named_parameters())
    memory = GradientMemory(1)
    memory.allocate([parameter.detach() for parameter in parameters.values()])
    for _ in range(2):  # a second refresh does not add to the first
        (loss,) = renew_memories(memory, parameters, [parts])
    batch = collate([trainer.forget_dataset[index] for index in indices])
    with torch.enable_grad():
        whole = (trainer._predict(pipe.unet, batch, batch["prompt"]) - batch["denoising_target"]).square().mean()
        gradients = torch.autograd.grad(whole, list(parameters.values()), allow_unused=True, materialize_grads=True)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
    for row, gradient in zip(memory.rows, gradients, strict=True):
        torch.testing.assert_close(row[0], -gradient.reshape(-1), rtol=1e-3, atol=1e-6)


# ---- Runs ----

FAMILIES = {"sd": tiny_stable_diffusion, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux, "pixart": tiny_pixart}


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_every_family_can_be_made_to_forget_so(make):
    pipe = make()
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    sampling = {"num_inference_steps": 2, "use_resolution_binning": False} if make is tiny_pixart else SAMPLING
    report = erase_concept(
        pipe, "dress", keep=["coat"], sampling=sampling, report_images=0, trim_ratio=0.02, saliency="relative",
        saliency_batches=1, projection=True, memory_every=2, **QUICK,
    )  # fmt: skip
    after = denoiser.state_dict()
    assert any(not torch.equal(before[name], value) for name, value in after.items())
    assert report.trim["trimmed"] > 0 and report.settings["forget_objective"] == "removal"
    assert {"adversary", "memory", "sensitivity"} <= set(report.seconds)


def test_attacks_begin_at_the_concept_and_at_no_words_never_at_what_is_kept():
    request = prepare(tiny_stable_diffusion(), adversarial_states=6)[0]
    starts = first_attacks(request)
    own = {text for texts in request.prompts.asking.values() for text in texts}
    assert len(starts) == 6 and set(starts[::2]) <= own and set(starts[1::2]) == {""}
    assert not set(starts[::2]) & set(request.prompts.retain)


def test_without_an_adversary_nobody_attacks():
    report = erase_concept(
        tiny_stable_diffusion(), "dress", sampling=SAMPLING, report_images=0, **{**QUICK, "adversarial_states": 0}
    )
    assert "adversary" not in report.seconds


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"recipe": "removal"}, "recipe='removal'"),
        ({"forget_objective": "removal"}, "forget_objective='removal'"),
        ({"recipe": "small-diffusion-class"}, "recipe='small-diffusion-class'"),
    ],
)
def test_compounds_are_refused_for_what_their_words_stand_for(values, named):
    pipe = tiny_stable_diffusion()
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    with pytest.raises(ValueError, match=f"{named} is for concepts of one word.*recipe of their own"):
        erase_concept(pipe, ["coat", "red dress"], sampling=SAMPLING, **values)
    assert all(torch.equal(before[name], value) for name, value in pipe.unet.state_dict().items())


def test_several_concepts_and_looks_can_be_removed():
    pipe = tiny_stable_diffusion()
    report = erase_concept(pipe, ["dress", "blue"], sampling=SAMPLING, report_images=0, **QUICK)
    assert report.concepts == ["dress", "blue"] and all(math.isfinite(row["loss"]) for row in report.history if "loss" in row)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"removal_cap": -1}, "removal_cap=-1"),
        ({"removal_strength": -0.5}, "removal_strength=-0.5"),
        ({"removal_least_noise": 1.0}, "removal_least_noise=1.0"),
        ({"removal_least_noise": -0.1}, "removal_least_noise=-0.1"),
        ({"removal_target": "others"}, "removal_target='others'"),
        ({"empty_prompt_share": 1.5}, "empty_prompt_share=1.5"),
        ({"adversarial_share": -0.1}, "adversarial_share=-0.1"),
        ({"ascent_limit": 1.0}, "ascent_limit=1.0"),
        ({"ascent_limit": 2.0, "forget_loss_ceiling": 0.1}, "ascent_limit=2.0 and forget_loss_ceiling=0.1 say the same"),
        ({"adversarial_every": 0}, "adversarial_every=0"),
        ({"adversarial_states": -1}, "adversarial_states=-1"),
        ({"neighbours": -2}, "neighbours=-2"),
    ],
)
def test_settings_out_of_range_are_refused(values, problem):
    with pytest.raises(ValueError, match=problem):
        ConceptErasureConfig(output_dir="unused", **values)


@pytest.mark.parametrize("values", [{"recipe": "removal"}, {"forget_objective": "removal"}])
def test_nothing_takes_the_place_of_what_is_removed(values):
    with pytest.raises(ValueError, match="removal.*does not use anchor='bag'"):
        erase_concept(tiny_stable_diffusion(), "dress", anchor="bag", **values)


@pytest.fixture
def large(monkeypatch):
    """What a large denoiser's settings would be, for the arguments of a call."""
    family = family_of(tiny_stable_diffusion())
    monkeypatch.setattr(settings, "LARGE_DENOISER", 10)

    def made(recipe="removal", **values):
        return build_config(family, recipe, None, values)

    return made


def test_a_large_denoiser_is_given_smaller_steps(large, monkeypatch):
    args = large(max_steps=30, repair_adapter=None)
    assert (args.learning_rate, args.trim_ratio, args.max_steps) == (1e-5, 0.0, 30)
    assert (args.forget_batch_size, args.gradient_accumulation_steps) == (1, 4)  # of four pictures, one at a time
    assert large(trim_ratio=0.01).trim_ratio == 0.01
    monkeypatch.undo()
    small = build_config(family_of(tiny_stable_diffusion()), "removal", None, {})
    assert small.learning_rate > 1e-4 and small.forget_batch_size > 4
    assert (small.repair_adapter, small.trainable_target_modules) == (None, None)


PATTERNS = ["*.attn1.*"]


@pytest.mark.parametrize(
    ("recipe", "given", "expected"),
    [
        ("removal", {}, (16, ["*"], 1e-4)),
        (None, {"forget_objective": "removal"}, (16, ["*"], 1e-4)),
        ("removal", {"learning_rate": 3e-4}, (16, ["*"], 3e-4)),
        ("removal", {"repair_adapter": 4}, (4, ["*"], 1e-4)),
        ("removal", {"repair_adapter": 4, "trainable_target_modules": PATTERNS}, (4, PATTERNS, 1e-4)),
        # Weights that are named, and no adapter that is, are trained themselves.
        ("removal", {"repair_adapter": None}, (None, None, 1e-5)),
        ("removal", {"trainable_target_modules": PATTERNS}, (None, PATTERNS, 1e-5)),
        ("removal", {"trainable_target_modules": ["*"]}, (None, ["*"], 1e-5)),
        # Only removal needs more than the weights that read text.
        ("removal", {"forget_objective": "closed_form"}, (None, ["*.attn2.to_k.*", "*.attn2.to_v.*"], 1e-5)),
        (None, {"forget_objective": "redirect"}, (None, ["*.attn2.to_k.*", "*.attn2.to_v.*"], 1e-5)),
        (None, {}, (None, ["*.attn2.to_k.*", "*.attn2.to_v.*"], 1e-5)),
    ],
)
def test_of_a_large_denoiser_removal_trains_an_adapter_unless_told_otherwise(recipe, given, expected, large):
    args = large(recipe, **given)
    assert (args.repair_adapter, args.trainable_target_modules, args.learning_rate) == expected


def test_the_adapter_of_a_large_denoiser_is_told_and_merged(monkeypatch, caplog):
    monkeypatch.setattr(settings, "LARGE_DENOISER", 10)
    caplog.set_level(logging.INFO)
    pipe = tiny_stable_diffusion().to(torch.bfloat16)
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    report = erase_concept(
        pipe, "dress", recipe="removal", keep=["coat"], sampling=SAMPLING, report_images=0, concept_type="object",
        learning_rate=1e-2, **{**QUICK, "max_steps": 2, "per_device_train_batch_size": 2},
    )  # fmt: skip
    after = pipe.unet.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    # Layers of all kinds, and neither norms nor biases.
    assert {"conv_in.weight", "time_embedding.linear_1.weight", "mid_block.resnets.0.conv1.weight"} <= moved
    assert all(name.endswith(".weight") and "norm" not in name for name in moved)
    assert (report.settings["repair_adapter"], report.settings["trainable_target_modules"]) == (16, ["*"])
    (note,) = [text for text in report.notes if "adapter" in text]
    assert "rank 16 over" in note and "trainable_target_modules=['*'] trains these" in note
    assert note in [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("recipe", "most", "warns"),
    [
        ("small-diffusion-class", 10, True),
        ("small-diffusion-nudity", 10, True),
        ("removal", 10, False),
        ("small-diffusion-class", None, False),
    ],
)
def test_a_small_denoisers_recipe_for_a_large_one_is_a_warning(recipe, most, warns, monkeypatch, caplog):
    if most is not None:
        monkeypatch.setattr(settings, "LARGE_DENOISER", most)
    request = ErasureRequest(tiny_stable_diffusion(), "dress", recipe=recipe, sampling=SAMPLING, config={"max_steps": 4})
    assert any("sized for a denoiser of about a million" in text for text in request.warnings) == warns
    assert ("sized for a denoiser of about a million" in caplog.text) == warns


def test_an_adapter_that_was_asked_for_is_no_news(monkeypatch):
    monkeypatch.setattr(settings, "LARGE_DENOISER", 10)
    request = prepare(tiny_stable_diffusion(), repair_adapter=2)[0]
    assert request.adapter is not None and not any("adapter" in text for text in request.notes)


def test_without_peft_the_way_out_is_said_at_the_call(large, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"'scissorhands_hf\[peft\]'. trainable_target_modules=\['\*'\] trains all weights"):
        large()
    assert large(repair_adapter=None).repair_adapter is None
    with pytest.raises(ValueError, match="max_steps=0 leaves the closed-form edit alone"):
        large(max_steps=0)
