"""What large denoisers need of `erase_concept`: little kept twice, nothing kept on, and what cannot be refused at the call."""

import functools
import gc
import math
import re
import tempfile
import weakref
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from tiny_pipelines import tiny_flux, tiny_pixart, tiny_sd3, tiny_sdxl, tiny_stable_diffusion
from transformers import TrainerState

from scissorhands_hf import erase_concept
from scissorhands_hf.audit import drawing
from scissorhands_hf.audit.drawing import pictures_of_size
from scissorhands_hf.erasure import ConceptErasureConfig, erase, guard, settings
from scissorhands_hf.erasure.erasure_trainer import ConceptErasureTrainer
from scissorhands_hf.erasure.guard import in_float32
from scissorhands_hf.erasure.noisy_examples import picture_batch


QUICK = {
    "anchor": "coat", "max_steps": 2, "evaluations": 1, "pictures_per_concept": 2, "retain_pictures": 2, "report_images": 0,
    "per_device_train_batch_size": 2, "evaluation_examples": 4, "disable_tqdm": True, "sampling": {"num_inference_steps": 1},
}  # fmt: skip
TEXT_LAYERS = ["*.attn2.to_k*", "*.attn2.to_v*"]


def state(denoiser):
    return {name: weight.clone() for name, weight in denoiser.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def switches(pipe):
    """Of every module that knows one, whether its activations are computed again, and by what."""
    return {
        name: (module.gradient_checkpointing, vars(module).get("_gradient_checkpointing_func"))
        for name, module in pipe.unet.named_modules()
        if hasattr(module, "gradient_checkpointing")
    }


@pytest.fixture(scope="module")
def plain():
    pipe = tiny_stable_diffusion()
    erase_concept(pipe, "dress", **QUICK)
    return state(pipe.unet)


@pytest.fixture
def in_training(monkeypatch):
    """Whether activations were computed again in the steps of repair."""
    seen = []
    step = ConceptErasureTrainer.training_step

    def watched(self, model, *args, **kwargs):
        seen.append(any(getattr(module, "gradient_checkpointing", False) for module in model.modules()))
        return step(self, model, *args, **kwargs)

    monkeypatch.setattr(ConceptErasureTrainer, "training_step", watched)
    return seen


@pytest.mark.parametrize("argument", ["gradient_checkpointing", "activation_checkpointing"])
@pytest.mark.parametrize("fails", [False, True])
def test_checkpointed_activations_give_the_same_weights_and_the_switch_is_as_before(argument, fails, plain, in_training):
    pipe = tiny_stable_diffusion()
    before, weights = switches(pipe), state(pipe.unet)

    def stop(progress):
        if fails and progress.stage == "repair" and progress.step:
            raise InterruptedError

    try:
        erase_concept(pipe, "dress", callback=stop, **{argument: True}, **QUICK)
    except InterruptedError:
        assert equal(state(pipe.unet), weights)
    else:
        assert not fails and equal(state(pipe.unet), plain)
    assert in_training and all(in_training)
    assert switches(pipe) == before


def test_a_switch_that_was_on_is_respected_can_be_overruled_and_stays_on(plain, in_training):
    for said, expected in (({}, True), ({"gradient_checkpointing": False}, False)):
        in_training.clear()
        pipe = tiny_stable_diffusion()
        pipe.unet.enable_gradient_checkpointing()
        before = switches(pipe)
        erase_concept(pipe, "dress", **said, **QUICK)
        assert set(in_training) == {expected} and switches(pipe) == before
        assert equal(state(pipe.unet), plain)


def test_large_denoisers_compute_activations_again_unless_told_otherwise(monkeypatch, in_training):
    monkeypatch.setattr(settings, "LARGE_DENOISER", 1000)
    pipe = tiny_stable_diffusion()
    erase_concept(pipe, "dress", **QUICK)
    assert in_training and all(in_training)
    in_training.clear()
    erase_concept(pipe, "dress", activation_checkpointing=False, **QUICK)
    assert in_training and not any(in_training)


def test_text_layers_alone_can_be_trained_when_nothing_is_trimmed():
    pipe = tiny_stable_diffusion()
    before = state(pipe.unet)
    erase_concept(pipe, "dress", trainable_target_modules=TEXT_LAYERS, **QUICK)
    after = state(pipe.unet)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and all(".attn2.to_k" in name or ".attn2.to_v" in name for name in changed)


def test_trimming_outside_of_what_is_trained_is_still_refused():
    with pytest.raises(ValueError, match="reinit_target_modules"):
        erase_concept(tiny_stable_diffusion(), "dress", trainable_target_modules=TEXT_LAYERS, trim_ratio=0.01, **QUICK)


def test_optimizer_gradients_and_targets_are_gone_before_the_closing_pictures(monkeypatch):
    held = []
    release, draw = ConceptErasureTrainer.release, erase._draw_report
    closing = []

    def watched(self):
        held.extend(weakref.ref(value) for row in self.optimizer.state.values() for value in row.values())
        held.extend(weakref.ref(weight.grad) for weight in self.model.parameters() if weight.grad is not None)
        held.append(weakref.ref(self.train_dataset.targets))
        assert len(held) > 100
        release(self)

    def drawing(request, reporter, last):
        if last:
            closing.append([reference() for reference in held if reference() is not None])
        return draw(request, reporter, last)

    monkeypatch.setattr(ConceptErasureTrainer, "release", watched)
    monkeypatch.setattr(erase, "_draw_report", drawing)
    gc.collect()
    gc.disable()
    try:
        erase_concept(tiny_stable_diffusion(), "dress", **QUICK)
    finally:
        gc.enable()
    assert closing == [[]]


class Counted:
    """A pipeline's text encoder or denoiser must not be asked."""

    def __init__(self, pipe, monkeypatch):
        self.calls = 0
        monkeypatch.setattr(pipe.unet, "forward", self.count)
        monkeypatch.setattr(pipe.text_encoder, "forward", self.count)

    def count(self, *args, **kwargs):
        self.calls += 1
        raise AssertionError("the pipeline was used before the settings were checked")


@pytest.mark.parametrize(
    ("given", "kind", "match"),
    [
        ({"optim": "adamw_bnb_8bit"}, ImportError, "optim='adamw_bnb_8bit' needs a package that is missing.*bitsandbytes"),
        ({"optim": "galore_adamw"}, (ImportError, ValueError), "optim='galore_adamw'"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate=nan must be a number >= 0"),
        ({"max_grad_norm": -1.0}, ValueError, "max_grad_norm=-1.0 must be a number >= 0"),
        ({"max_grad_norm": float("nan")}, ValueError, "max_grad_norm=nan must be a number >= 0"),
        ({"adam_beta1": 1.5}, ValueError, r"adam_beta1=1.5 must lie in \[0, 1\)"),
        ({"fsdp": True}, ValueError, "fsdp=True is not supported"),
        ({"n_gpu": 2}, ValueError, "2 GPUs in one process.*CUDA_VISIBLE_DEVICES"),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, ValueError, "gradient_checkpointing_kwargs"),
    ],
)
def test_what_cannot_work_is_refused_at_the_call(given, kind, match, monkeypatch):
    pipe = tiny_stable_diffusion()
    counted = Counted(pipe, monkeypatch)
    given = dict(given)
    if processors := given.pop("n_gpu", None):
        monkeypatch.setattr(ConceptErasureConfig, "n_gpu", property(lambda self: processors))
    with pytest.raises(kind, match=match):
        erase_concept(pipe, "dress", **given, **QUICK)
    assert counted.calls == 0


def test_a_norm_without_end_is_looked_at_and_never_cut():
    report = erase_concept(tiny_stable_diffusion(), "dress", max_grad_norm=float("inf"), **QUICK)
    assert all(math.isfinite(row["grad_norm"]) for row in report.history if "grad_norm" in row)


FAMILIES = {"sd": tiny_stable_diffusion, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux, "pixart": tiny_pixart}


def denoiser_of(pipe):
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def settings_for(pipe):
    binning = {"use_resolution_binning": False} if type(pipe).__name__.startswith("PixArt") else {}
    return {**QUICK, "sampling": {"num_inference_steps": 2, **binning, "height": 32, "width": 32}}


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_frozen_weights_stay_in_half_precision_and_all_is_computed_as_if_they_were_float32(make, monkeypatch):
    """The very weights that a run gives in which everything is held in float32."""
    monkeypatch.setattr(settings, "LARGE_DENOISER", 1000)
    held = []
    step = ConceptErasureTrainer.training_step

    def watched(self, model, *args, **kwargs):
        held.append({(weight.dtype, weight.requires_grad) for weight in model.parameters()})
        return step(self, model, *args, **kwargs)

    monkeypatch.setattr(ConceptErasureTrainer, "training_step", watched)
    results = []
    for everything in (False, True):
        pipe = make().to(torch.bfloat16)
        denoiser = denoiser_of(pipe)
        before, order = state(denoiser), [(name, id(weight)) for name, weight in denoiser.named_parameters()]
        kinds = [type(module) for module in denoiser.modules()]
        if everything:
            monkeypatch.setattr(erase, "in_float32", lambda module, changed, copied: in_float32(module))
        held.clear()
        erase_concept(pipe, "dress", max_grad_norm=0, **settings_for(pipe))
        results.append(state(denoiser))
        # A frozen bias beside a trained weight is float32, too.
        assert {dtype for dtype, wanted in held[0] if wanted} == {torch.float32}
        assert (torch.bfloat16, False) in held[0] if not everything else {dtype for dtype, _ in held[0]} == {torch.float32}
        assert [(name, id(weight)) for name, weight in denoiser.named_parameters()] == order
        assert [type(module) for module in denoiser.modules()] == kinds
        assert {weight.dtype for weight in denoiser.parameters()} == {torch.bfloat16}
        changed = {name for name in before if not torch.equal(before[name], results[-1][name])}
        assert 0 < len(changed) < len(before)
    assert equal(*results)


def test_backup_and_checkpoints_hold_what_changes_alone(monkeypatch):
    saved = []
    save = safetensors.torch.save_file

    def watched(tensors, path, *args, **kwargs):
        saved.append((Path(path).name, set(tensors)))
        return save(tensors, path, *args, **kwargs)

    monkeypatch.setattr(safetensors.torch, "save_file", watched)
    pipe = tiny_stable_diffusion()
    erase_concept(pipe, "dress", trainable_target_modules=TEXT_LAYERS, **QUICK)
    trained = {name for name, _ in pipe.unet.named_parameters() if ".attn2.to_k" in name or ".attn2.to_v" in name}
    assert saved == [("original.safetensors", trained), ("trained.safetensors", trained)]


@pytest.mark.parametrize("moment", ["targets", "repair", "report"])
def test_a_failed_run_in_half_precision_leaves_weights_and_modules_as_they_were(moment):
    pipe = tiny_stable_diffusion().to(torch.bfloat16)
    before, kinds = state(pipe.unet), [type(module) for module in pipe.unet.modules()]

    def stop(progress):
        if progress.stage == moment and progress.step:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        erase_concept(pipe, "dress", trainable_target_modules=TEXT_LAYERS, callback=stop, **{**QUICK, "report_images": 2})
    assert equal(state(pipe.unet), before) and [type(module) for module in pipe.unet.modules()] == kinds
    assert all(weight.dtype == torch.bfloat16 and weight.grad is None for weight in pipe.unet.parameters())


@pytest.mark.parametrize(
    ("shape", "predicted", "pixels", "drawn"),
    [((4, 8, 8), 128, (64, 64), 16), ((4, 64, 64), 16, (512, 512), 8), ((4, 128, 128), 4, (1024, 1024), 2),
     ((16, 128, 128), 1, (1024, 1024), 2), ((16, 256, 256), 1, (2048, 2048), 1)],
)  # fmt: skip
def test_batches_are_by_the_size_of_pictures(shape, predicted, pixels, drawn):
    assert picture_batch(torch.empty(1, *shape)) == predicted
    assert pictures_of_size(*pixels) == drawn


def test_large_pictures_are_drawn_and_decoded_few_at_a_time(monkeypatch):
    monkeypatch.setattr(drawing, "PIXELS_AT_ONCE", 2 * 32 * 32)
    monkeypatch.setattr(drawing, "LARGE_PICTURE", 32 * 32)
    pipe = tiny_stable_diffusion()
    drawn, decoded = [], []
    call, decode = type(pipe).__call__, pipe.vae.decoder.forward

    def watched(self, prompts, **kwargs):
        drawn.append(len(prompts))
        return call(self, prompts, **kwargs)

    monkeypatch.setattr(type(pipe), "__call__", functools.wraps(call)(watched))
    monkeypatch.setattr(pipe.vae.decoder, "forward", lambda sample, *args: decoded.append(len(sample)) or decode(sample, *args))
    drawing.draw_pictures(pipe, ["dress"], images_per_prompt=5, seed=0, sampling={"num_inference_steps": 1})
    assert drawn == [2, 2, 1] and decoded == [1] * 5
    assert not pipe.vae.use_slicing


def test_no_steps_are_the_edit_alone_in_the_pipelines_own_dtype(monkeypatch):
    """No picture is drawn to learn from, nothing is trained, and the weights are those that the edit solves for."""
    monkeypatch.setattr(ConceptErasureTrainer, "__init__", lambda *args, **kwargs: pytest.fail("a trainer was made"))
    pipe = tiny_stable_diffusion().to(torch.bfloat16)
    before, drawn = state(pipe.unet), []
    report = erase_concept(
        pipe, "dress", callback=lambda progress: drawn.append(progress.stage), **{**QUICK, "max_steps": 0, "report_images": 2}
    )
    after = state(pipe.unet)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {f"{layer}.weight" for layer in report.edit["per_layer"]} and "pictures" not in drawn
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    assert report.history == [] and report.metrics and report.settings["max_steps"] == 0
    with pytest.raises(ValueError, match="max_steps=0 leaves the closed-form edit alone"):
        erase_concept(pipe, "dress", **{**QUICK, "max_steps": 0, "trim_ratio": 0.1})


@pytest.mark.parametrize("file", ["original.safetensors", "trained.safetensors", "trainer_state.json"])
def test_a_disk_that_fills_up_is_told_with_the_folder_and_leaves_the_pipeline_as_it_was(file, monkeypatch):
    save, to_json = safetensors.torch.save_file, TrainerState.save_to_json

    def full(tensors, path, *args, **kwargs):
        if Path(path).name == file:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        return save(tensors, path, *args, **kwargs)

    def state_full(self, path):
        if file.endswith("json"):
            raise OSError(28, "No space left on device")
        return to_json(self, path)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    monkeypatch.setattr(TrainerState, "save_to_json", state_full)
    pipe = tiny_stable_diffusion()
    before = state(pipe.unet)
    with pytest.raises(
        OSError, match=rf"Set TMPDIR to a folder with more room.*{tempfile.gettempdir()}/scissorhands-"
    ) as caught:
        erase_concept(pipe, "dress", **QUICK)
    assert caught.value.errno == 28 and not Path(caught.value.filename).exists()
    assert equal(state(pipe.unet), before) and not hasattr(pipe, "erasure_reports")


@pytest.mark.parametrize("error", [OSError(28, "full", "/elsewhere/file"), OSError(2, "missing"), SafetensorError("header")])
def test_other_errors_are_not_taken_for_a_full_disk(error, tmp_path):
    with pytest.raises(type(error), match=re.escape(str(error))) as caught, guard.full_disk_told(str(tmp_path)):
        raise error
    assert caught.value is error
