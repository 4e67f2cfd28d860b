"""Offloaded pipelines, on a machine without an accelerator: the same hooks, which move to main memory."""

from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from diffusers.hooks import HookRegistry
from diffusers.hooks.group_offloading import ModuleGroup
from tiny_pipelines import tiny_pixart, tiny_stable_diffusion
from torch import nn

from scissorhands_hf import erase_concept
from scissorhands_hf.erasure import erase
from scissorhands_hf.erasure.families.hooks import accelerate_hooks, execution_device, group_offloading
from scissorhands_hf.erasure.offloading import hooks_off


CPU = torch.device("cpu")
QUICK = {
    "anchor": "coat", "max_steps": 2, "evaluations": 1, "pictures_per_concept": 2, "retain_pictures": 2, "report_images": 2,
    "per_device_train_batch_size": 2, "evaluation_examples": 2, "disable_tqdm": True, "concept_type": "object",
    "sampling": {"num_inference_steps": 2, "height": 32, "width": 32},
}  # fmt: skip


def whole_parts(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def layers(pipe: Any) -> None:
    # As enable_sequential_cpu_offload does; but of its device "cpu:0" accelerate (1.15) makes parameters plain tensors.
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            accelerate.cpu_offload(part, CPU)


def groups(pipe: Any) -> None:
    kind = {"offload_type": "block_level", "num_blocks_per_group": 1}
    pipe.enable_group_offload(onload_device=CPU, offload_device=CPU, **kind)


def leaves(pipe: Any) -> None:
    pipe.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


KINDS = {"whole parts": whole_parts, "layers": layers, "groups": groups, "leaves": leaves}


def hooks_of(part: nn.Module) -> list[tuple[str, str]]:
    found = []
    for name, module in part.named_modules():
        found += [(name, type(hook).__name__) for hook in accelerate_hooks(module)]
        registry = next((value for value in vars(module).values() if isinstance(value, HookRegistry)), None)
        found += [] if registry is None else [(name, kind) for kind in registry.hooks]
    return found


def picture(pipe: Any) -> torch.Tensor:
    sampling = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "pt"}
    return pipe("a dress", generator=torch.Generator().manual_seed(0), **sampling).images


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    """Of the denoiser, with no hook on it."""
    denoiser = pipe.components.get("unet", pipe.components.get("transformer"))
    with hooks_off(pipe, denoiser):
        return {name: value.clone() for name, value in denoiser.state_dict().items()}


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    pipe = tiny_stable_diffusion()
    erase_concept(pipe, "dress", **QUICK)
    return weights(pipe)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("offload", KINDS.values(), ids=list(KINDS))
def test_an_offloaded_pipeline_forgets_as_another_does_and_is_offloaded_afterwards(
    offload: Callable[[Any], None], plain: dict[str, torch.Tensor], monkeypatch
):
    pipe = tiny_stable_diffusion()
    offload(pipe)
    before, seen = hooks_of(pipe.unet), []
    assert before and execution_device(pipe.unet).type == "cpu"
    train = erase._train

    def watched(*args):
        seen.append(
            (hooks_of(pipe.unet), hooks_of(pipe.text_encoder), {weight.device.type for weight in pipe.unet.parameters()})
        )
        return train(*args)

    monkeypatch.setattr(erase, "_train", watched)
    report = erase_concept(pipe, "dress", **QUICK)
    (denoiser, encoder, devices), *others = seen
    assert denoiser == [] and encoder and devices == {"cpu"} and not others
    assert report.metrics and hooks_of(pipe.unet) == before
    drawn = picture(pipe)
    assert same(weights(pipe), plain)
    whole = tiny_stable_diffusion()
    whole.unet.load_state_dict(plain)
    assert torch.allclose(drawn, picture(whole), atol=1e-5)


@pytest.mark.parametrize(("offload", "moment"), [(whole_parts, "report"), (layers, "report"), (groups, "repair")])
def test_a_cancelled_run_leaves_weights_and_hooks_as_they_were(offload: Callable[[Any], None], moment: str):
    pipe = tiny_stable_diffusion()
    offload(pipe)
    before = hooks_of(pipe.unet), weights(pipe)

    def stop(progress: Any) -> None:
        if progress.stage == moment and progress.step:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        erase_concept(pipe, "dress", callback=stop, **QUICK)
    assert hooks_of(pipe.unet) == before[0] and same(weights(pipe), before[1])
    assert torch.isfinite(picture(pipe)).all()


def test_what_a_family_asks_of_parts_of_an_offloaded_denoiser():
    """PixArt's text goes through a part of the denoiser before it meets its layers; the edit alone, without repair."""
    results = []
    for offload in (None, whole_parts, leaves):
        pipe = tiny_pixart()
        if offload is not None:
            offload(pipe)
        sampling = {**QUICK["sampling"], "use_resolution_binning": False}
        erase_concept(pipe, "dress", **{**QUICK, "max_steps": 0, "report_images": 0, "sampling": sampling})
        results.append(weights(pipe))
    assert same(results[0], results[1]) and same(results[0], results[2])


def test_pictures_of_the_user_are_read_by_an_offloaded_tiled_autoencoder():
    from PIL import Image

    given = {"forget_images": [Image.new("RGB", (32, 32), "red")] * 2, "report_images": 0}
    results = []
    for offload in (None, layers):
        pipe = tiny_stable_diffusion()
        pipe.vae.enable_tiling()
        pipe.vae.enable_slicing()
        if offload is not None:
            offload(pipe)
        erase_concept(pipe, "dress", **{**QUICK, **given})
        results.append(weights(pipe))
    assert same(*results)
    assert pipe.vae.use_tiling and pipe.vae.use_slicing


def test_settings_of_group_offloading_are_kept():
    pipe = tiny_stable_diffusion()
    kind = {"offload_type": "block_level", "num_blocks_per_group": 2, "non_blocking": True, "low_cpu_mem_usage": True}
    pipe.unet.enable_group_offload(onload_device=CPU, offload_device=CPU, **kind)
    before = group_offloading(pipe.unet)
    with hooks_off(pipe, pipe.unet):
        assert group_offloading(pipe.unet) is None
    assert group_offloading(pipe.unet) == before and group_offloading(pipe.unet) is not before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_under_an_adapter_layers_stay_offloaded_one_by_one(dtype, monkeypatch):
    """Here a layer's weights are lost while it is offloaded, so that a backward pass that read them would tell."""
    given = {**QUICK, "repair_adapter": 4, "gradient_checkpointing": True, "learning_rate": 1e-2, "report_images": 0}
    whole = tiny_stable_diffusion().to(dtype)
    erase_concept(whole, "dress", **given)
    pipe = tiny_stable_diffusion().to(dtype)
    kept: dict[int, torch.Tensor] = {}
    asked, training = set(), False
    offload, onload = ModuleGroup.offload_, ModuleGroup.onload_

    def tensors(group):
        return [*(value for module in group.modules for value in module.parameters()), *group.parameters]

    def away(group):
        offload(group)
        for value in tensors(group) if training else ():
            if id(value) in kept and value.device.type != "meta":
                value.data = torch.full_like(value.data, float("nan"))

    def there(group):
        onload(group)
        for value in tensors(group) if training else ():
            kept.setdefault(id(value), value.data)
            value.data = kept[id(value)]
            asked.add(id(value))

    monkeypatch.setattr(ModuleGroup, "offload_", away)
    monkeypatch.setattr(ModuleGroup, "onload_", there)
    leaves(pipe)
    before, seen = hooks_of(pipe.unet), []
    train = erase.ConceptErasureTrainer.training_step

    def watched(self, model, *args, **kwargs):
        nonlocal training
        training = True
        try:
            return train(self, model, *args, **kwargs)
        finally:
            training = False
            seen.append([kind for _, kind in hooks_of(pipe.unet)])
            named = {id(value): value for value in model.parameters()}
            for number, value in kept.items():
                named[number].data = value
            kept.clear()

    monkeypatch.setattr(erase.ConceptErasureTrainer, "training_step", watched)
    erase_concept(pipe, "dress", **given)
    assert len(asked) > 50 and len(seen) == 2 and all("group_offloading" in kinds for kinds in seen)
    assert hooks_of(pipe.unet) == before and same(weights(pipe), weights(whole))
