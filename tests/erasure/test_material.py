"""What repair learns from, against the formulas computed with the stock scheduler and denoiser; and which step is kept."""

import pytest
import torch
from tiny_pipelines import tiny_sd3, tiny_stable_diffusion

from scissorhands_hf.core import connection_sensitivity
from scissorhands_hf.erasure.erasure_trainer import ConceptErasureTrainer
from scissorhands_hf.erasure.guard import original_state
from scissorhands_hf.erasure.material import gather_material, make_examples
from scissorhands_hf.erasure.noisy_examples import collate
from scissorhands_hf.erasure.request import ErasureRequest
from scissorhands_hf.trainer.run_progress import Reporter


SAMPLING = {"num_inference_steps": 2, "height": 32, "width": 32, "guidance_scale": 7.5}
QUICK = {"max_steps": 4, "evaluations": 2, "pictures_per_concept": 3, "retain_pictures": 5, "per_device_train_batch_size": 2}


def prepare(pipe, anchor=None, **settings):
    config = {**QUICK, "disable_tqdm": True, "seed": 3, "forget_objective": "closed_form", **settings}
    request = ErasureRequest(pipe, "dress", anchor=anchor, keep=["coat"], sampling=SAMPLING, config=config)
    reporter = Reporter(None, 0.0)
    material = gather_material(request, reporter)
    return request.family, request.args, request.prompts, material, make_examples(request, material, reporter)


@torch.no_grad()
def stock_unet(pipe, batch, prompts: list[str]) -> torch.Tensor:
    states = pipe.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)[0]
    return pipe.unet(batch["noisy"], batch["timesteps"], encoder_hidden_states=states).sample


@pytest.mark.parametrize(
    ("settings", "anchor"),
    [
        ({"forget_objective": "negative_guidance", "negative_guidance_strength": 1.5}, None),
        ({"forget_objective": "redirect"}, "coat"),
    ],
)
def test_targets_are_the_originals_predictions(settings, anchor):
    pipe = tiny_stable_diffusion()
    _, _, _, material, (retain, forget, _, _) = prepare(pipe, anchor, **settings)
    text_of = {row: text for text, row in material.table.rows.items()}
    assert len(retain) == len(forget) == QUICK["max_steps"] * QUICK["per_device_train_batch_size"]

    kept = collate([retain[index] for index in range(len(retain))])
    own = stock_unet(pipe, kept, [text_of[row] for row in kept["prompt"].tolist()])
    assert torch.allclose(kept["target"], own, atol=1e-5)

    lost = collate([forget[index] for index in range(len(forget))])
    texts = [text_of[row] for row in lost["prompt"].tolist()]
    assert all("dress" in text for text in texts)
    if anchor is None:
        with_words, without = stock_unet(pipe, lost, texts), stock_unet(pipe, lost, [""] * len(texts))
        assert torch.allclose(lost["target"], without - 1.5 * (with_words - without), atol=1e-5)
    else:
        instead = [text.replace("dress", "coat") for text in texts]
        assert torch.allclose(lost["target"], stock_unet(pipe, lost, instead), atol=1e-5)
    # Noisy pictures and what the denoiser was trained to say of them, by the stock scheduler.
    latents = forget.latents[forget.pictures]
    again = pipe.scheduler.add_noise(latents, lost["denoising_target"], lost["timesteps"])
    assert torch.allclose(lost["noisy"], again, atol=1e-6)


def test_closed_form_targets_are_what_the_edited_layers_make_of_the_original():
    pipe = tiny_stable_diffusion()
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    _, args, _, material, (retain, forget, retain_eval, forget_eval) = prepare(pipe)
    assert args.forget_objective == "closed_form"
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    text_of = {row: text for text, row in material.table.rows.items()}

    def distances(examples) -> float:
        batch = collate([examples[index] for index in range(len(examples))])
        own = stock_unet(pipe, batch, [text_of[row] for row in batch["prompt"].tolist()])
        return (own - batch["target"]).abs().max().item()

    asked = distances(forget)
    assert max(map(distances, (retain, retain_eval))) < 1e-5 < min(asked, distances(forget_eval))
    material.edit.apply()
    assert max(map(distances, (forget, forget_eval))) < 1e-5
    assert distances(retain) < 0.5 * asked  # the prompts to keep had their part in the edit


def test_examples_repeat_exactly_and_held_out_ones_are_others():
    pipe = tiny_sd3()
    _, _, _, _, first = prepare(pipe)
    _, _, _, _, second = prepare(pipe)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[5][name], other[5][name]) for name in one[5])
    retain, _, held_out, _ = first
    assert not torch.equal(retain[0]["noisy"], held_out[0]["noisy"])
    assert set(retain.pictures.tolist()) == set(range(5))  # every picture is used


def trainer_of(pipe, tmp_path, **settings):
    family, args, _, material, examples = prepare(pipe, **settings)
    args.output_dir = str(tmp_path)
    trainer = ConceptErasureTrainer(family, args, *examples, material.table, callbacks=[])
    trainer.measure_references()
    return trainer


def test_the_sensitivity_takes_the_denoising_loss_of_the_concept(tmp_path):
    pipe = tiny_stable_diffusion()
    trainer = trainer_of(pipe, tmp_path, sensitivity_guidance=2.0)
    forget = trainer.forget_dataset
    batch = collate([forget[index] for index in range(2)])
    text_of = {row: text for text, row in trainer.table.rows.items()}
    with torch.enable_grad():
        states = pipe.encode_prompt([text_of[r] for r in batch["prompt"].tolist()], "cpu", 1, False)[0].detach()
        empty = pipe.encode_prompt(["", ""], "cpu", 1, False)[0].detach()
        plain, none = (pipe.unet(batch["noisy"], batch["timesteps"], s).sample for s in (states, empty))
        loss = ((none + 2.0 * (plain - none)) - batch["denoising_target"]).square().mean()
        weight = pipe.unet.conv_in.weight
        (gradient,) = torch.autograd.grad(loss, weight)
    (compute,) = trainer.forget_losses([[0, 1]])
    measured = connection_sensitivity([compute], {"w": weight})["w"]
    assert torch.allclose(measured, (weight * gradient).abs().detach(), rtol=1e-3, atol=1e-8)


def test_ascent_ends_at_a_multiple_of_the_originals_own_loss(tmp_path):
    pipe = tiny_stable_diffusion()
    trainer = trainer_of(pipe, tmp_path, forget_objective="ascent", ascent_limit=1.5)
    held_out = trainer.eval_dataset["forget"]
    text_of = {row: text for text, row in trainer.table.rows.items()}
    losses = []
    for index in range(len(held_out)):
        one = held_out[index]
        states = pipe.encode_prompt([text_of[int(one["prompt"])]], "cpu", 1, False)[0]
        with torch.no_grad():
            said = pipe.unet(one["noisy"][None], one["timesteps"][None], states).sample[0]
        losses.append((said - one["denoising_target"]).square().mean().item())
    limit = 1.5 * sum(losses) / len(losses)
    assert trainer.forget_loss_ceiling == pytest.approx(limit, rel=1e-4)
    # Beyond it nothing is left to gain.
    for factor, expected in ((0.9, -trainer.forget_weight), (1.1, 0.0)):
        loss = torch.tensor(limit * factor, requires_grad=True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(trainer.forget_term(loss), loss)
        assert gradient.item() == pytest.approx(expected)
    # Without a limit: the loss of saying nothing, of noise of variance 1.
    plain = trainer_of(tiny_stable_diffusion(), tmp_path, forget_objective="ascent")
    assert plain.forget_loss_ceiling == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("objective", "share", "kept", "forgotten"),
    [
        ("ascent", None, 0, 0),
        ("ascent", 1.0, 0, 1),
        ("removal", 1.0, 1, 1),
        ("removal", 0.0, 0, 0),
        ("closed_form", None, 0, 0),
    ],
)
def test_without_words_is_asked_what_the_objective_wants(objective, share, kept, forgotten):
    _, _, _, material, (retain, forget, *_) = prepare(
        tiny_stable_diffusion(), forget_objective=objective, empty_prompt_share=share, retain_objective="distillation"
    )
    empty = material.table.rows[""]
    for examples, expected in ((retain, kept), (forget, forgotten)):
        named = examples.prompts[examples.pictures] != empty  # some pictures to keep were drawn without words
        assert named.any() and (examples.asked[named] == empty).float().mean().item() == expected


def test_the_retain_sensitivity_takes_the_denoising_loss_of_what_is_kept(tmp_path):
    # The retain pictures' targets are the original's own predictions, at which their loss has no gradient.
    pipe = tiny_stable_diffusion()
    trainer = trainer_of(pipe, tmp_path, saliency="relative", trim_ratio=0.05)
    retain, weight = trainer.train_dataset, pipe.unet.conv_in.weight
    batch = collate([retain[index] for index in range(2)])
    text_of = {row: text for text, row in trainer.table.rows.items()}
    with torch.enable_grad():
        states = pipe.encode_prompt([text_of[r] for r in batch["prompt"].tolist()], "cpu", 1, False)[0].detach()
        loss = (pipe.unet(batch["noisy"], batch["timesteps"], states).sample - batch["denoising_target"]).square().mean()
        (gradient,) = torch.autograd.grad(loss, weight)
    (compute,) = trainer.retain_losses([[0, 1]])
    measured = connection_sensitivity([compute], {"w": weight})["w"]
    assert measured.max() > 0 and torch.allclose(measured, (weight * gradient).abs().detach(), rtol=1e-3, atol=1e-8)
    assert trainer.trim()["trimmed"] > 0


def test_the_step_with_the_best_tradeoff_is_kept(tmp_path):
    # A learning rate that ruins the model, and no decay: later steps are worse than the first ones.
    trainer = trainer_of(
        tiny_stable_diffusion(), tmp_path, learning_rate=0.02, lr_scheduler_type="constant", divergence_factor=1e9,
        trim_ratio=0, max_steps=6, evaluations=6,
    )  # fmt: skip
    trainer.train()
    seen = {row["step"]: row["eval_tradeoff"] for row in trainer.state.log_history if "eval_tradeoff" in row}
    assert list(seen) == [1, 2, 3, 4, 5, 6]
    best = min(seen, key=seen.get)
    assert trainer.state.best_metric == pytest.approx(seen[best])
    assert trainer.evaluate()["eval_tradeoff"] == pytest.approx(seen[best], rel=1e-4)


def test_damage_is_the_rise_of_the_denoising_loss(tmp_path):
    trainer = trainer_of(tiny_stable_diffusion(), tmp_path)
    untouched = trainer.evaluate()
    assert untouched["eval_damage"] == pytest.approx(0, abs=1e-6) and untouched["eval_tradeoff"] == pytest.approx(1, abs=1e-4)
    assert trainer.damage(trainer.retain_reference * 0.1) == pytest.approx(0.1)


def test_a_full_disk_is_noticed_before_any_weight_changes(monkeypatch):
    import safetensors.torch

    pipe = tiny_stable_diffusion()
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="no room is left"), original_state(pipe.unet):
        raise AssertionError("the block must not run")
    assert all(value.equal(before[name]) for name, value in pipe.unet.state_dict().items())
