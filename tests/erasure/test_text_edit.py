"""The edit of text layers: on what real pipelines feed them, and on what pipelines then predict."""

import pytest
import torch
from tiny_pipelines import TINY, tiny_pixart, tiny_stable_diffusion

from scissorhands_hf import erase_concept
from scissorhands_hf.erasure.families import Family, family_of
from scissorhands_hf.erasure.families.text_inputs import matching_places
from scissorhands_hf.erasure.settings import build_config
from scissorhands_hf.erasure.text_edit import TextEdit


QUICK = {
    "max_steps": 2, "evaluations": 1, "pictures_per_concept": 2, "retain_pictures": 2, "per_device_train_batch_size": 2,
    "sampling": {"num_inference_steps": 2}, "disable_tqdm": True, "report_images": 0,
}  # fmt: skip


@pytest.fixture(params=list(TINY))
def family(request: pytest.FixtureRequest) -> Family:
    return family_of(TINY[request.param][0]())


def noise_of(family: Family, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    channels = family.pipe.vae.config.latent_channels
    noisy = torch.randn(count, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    return noisy, family.noise_process().sample_timesteps(count, torch.Generator().manual_seed(1))


@torch.no_grad()
def predict(family: Family, prompts: list[str]) -> torch.Tensor:
    noisy, times = noise_of(family, len(prompts))
    return family.predict(family.denoiser, noisy, times, family.encode_prompts(prompts))


def text_edit(family: Family, **settings: float) -> TextEdit:
    values = {f"closed_form_{name}": value for name, value in settings.items()}
    return TextEdit(family, build_config(family, None, None, {"disable_tqdm": True, **values}))


def test_inputs_are_what_the_layers_read_in_a_prediction(family):
    prompts = ["a photo of a dress", "the red coat", ""]
    read: dict[str, torch.Tensor] = {}
    parts = family.text_inputs(family.encode_prompts(prompts), noise_of(family, 1)[0])
    handles = [
        family.denoiser.get_submodule(name).register_forward_pre_hook(
            lambda module, arguments, name=name: read.__setitem__(name, arguments[0].clone())
        )
        for part in parts
        for name in part.layers
    ]
    predict(family, prompts)
    for handle in handles:
        handle.remove()
    assert read
    for part in parts:
        for name in part.layers:
            torch.testing.assert_close(read[name].view_as(part.inputs), part.inputs)


def test_nothing_of_the_text_passes_by_the_edited_layers(family):
    """With their answers to every prompt gone, prompts are all the same to the denoiser."""
    prompts = ["a photo of a dress", "a photo of a coat"]
    parts = family.text_inputs(family.encode_prompts(prompts), noise_of(family, 1)[0])
    noisy, times = (value[:1].repeat(2, *[1] * (value.ndim - 1)) for value in noise_of(family, 2))
    conditioning = family.encode_prompts(prompts)
    with torch.no_grad():
        told = family.predict(family.denoiser, noisy, times, conditioning)
        for name in (name for part in parts for name in part.layers):
            family.denoiser.get_submodule(name).weight.zero_()
        untold = family.predict(family.denoiser, noisy, times, conditioning)
    assert (told[0] - told[1]).abs().max() > 1e-4
    torch.testing.assert_close(untold[0], untold[1], atol=1e-6, rtol=0)


def test_a_prompt_is_answered_as_the_other(family):
    concept, other = "a photo of a dress", "a photo of a coat"
    edit = text_edit(family, overshoot=0.0, ridge=1e-8, keep_weight=1.0)
    edit.gather([(concept, other)], [other], noise_of(family, 1)[0])
    old, wanted = predict(family, [concept]), predict(family, [other])
    with edit.applied():
        new, same = predict(family, [concept]), predict(family, [other])
    # Not exactly: the layers of these tiny models are narrower than the prompts have places.
    assert (new - wanted).norm() < 0.4 * (old - wanted).norm()
    assert (same - wanted).norm() < 0.4 * (old - wanted).norm()


def test_kept_prompts_are_answered_as_before(family):
    concept, other, kept = "a photo of a dress", "a photo of a coat", ["the blue shoe", ""]
    old, same = predict(family, [concept]), predict(family, kept)
    lost = {}
    for keep_weight in (0.0, 10.0):
        edit = text_edit(family, overshoot=0.0, ridge=1e-8, keep_weight=keep_weight)
        edit.gather([(concept, other)], kept, noise_of(family, 1)[0])
        with edit.applied():
            lost[keep_weight] = (predict(family, kept) - same).norm() / (predict(family, [concept]) - old).norm()
    assert lost[10.0] < 0.3 < lost[0.0]


def test_the_overshoot_goes_as_far_again_beyond_the_other():
    family = family_of(tiny_stable_diffusion())
    layer = family.denoiser.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2.to_v")
    old, new = (layer(family.encode_prompts([text])["encoder_hidden_states"][0])[1] for text in ("dress", "coat"))
    edit = text_edit(family, overshoot=1.0, ridge=1e-8, keep_weight=0.0)
    edit.gather([("dress", "coat")], [], noise_of(family, 1)[0])
    with edit.applied():
        beyond = layer(family.encode_prompts(["dress"])["encoder_hidden_states"][0])[1]
    torch.testing.assert_close(beyond, 2 * new - old, atol=1e-3, rtol=1e-2)


def test_layers_that_cannot_tell_the_prompts_apart_are_left_alone():
    family = family_of(TINY["sdxl"][0]())
    pooled = family.pipe.text_encoder_2.text_projection.weight
    with torch.no_grad():
        pooled.zero_()  # the summary of every prompt is the same
    edit = text_edit(family)
    edit.gather([("dress", "coat")], ["bag"], noise_of(family, 1)[0])
    assert edit.layers and not any("add_embedding" in name for name in edit.layers)


def test_a_concept_that_is_read_as_its_anchor_is_refused():
    pipe = tiny_stable_diffusion()
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight.zero_()
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    with pytest.raises(ValueError, match="reads 'dress' and 'coat' alike.*another anchor"):
        erase_concept(pipe, "dress", anchor="coat", **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())


@pytest.mark.parametrize(("old", "new"), [("a photo of a dress", "a photo of a red coat"), ("a red dress", "a dress")])
def test_places_that_belong_together_hold_the_same_words_around_the_concept(family, old, new):
    """Tokenized and padded as the pipelines do it: outside the words that differ, a token is answered by its like."""
    segments, texts = family._text_segments(), [family._text_as_read(text) for text in (old, new)]
    tokens: list[list[int]] = [[], []]
    for tokenizer, start, length in segments:
        for row, text in zip(tokens, texts, strict=True):
            assert len(row) == start
            row += tokenizer(text, padding="max_length", truncation=True, max_length=length).input_ids
    places = family.encode_prompts([old])["encoder_hidden_states"].shape[1]
    read = len(tokens[0])
    assert read == places or getattr(family.pipe, "text_encoder_3", "") is None  # places of a T5 that is not there are zeros
    pairs = family.matching_places(old, new)
    other = [pair for pair in pairs if tokens[0][pair[0]] != tokens[1][pair[1]]]
    assert 1 <= len(other) <= len(segments) and any(a != b for a, b in pairs)
    # Nearly every place has its counterpart: what the longer prompt pushes out of the padding has none.
    assert len(pairs) >= read - 2 * len(segments)


def test_what_was_applied_is_taken_back_bit_for_bit(family):
    before = {name: value.clone() for name, value in family.denoiser.state_dict().items()}
    edit = text_edit(family)
    edit.gather([("dress", "coat")], ["bag"], noise_of(family, 1)[0])
    with pytest.raises(KeyboardInterrupt), edit.applied():
        changed = {name for name, value in family.denoiser.state_dict().items() if not torch.equal(value, before[name])}
        raise KeyboardInterrupt
    assert changed == {f"{name}.weight" for name in edit.layers}
    assert all(torch.equal(value, before[name]) for name, value in family.denoiser.state_dict().items())
    weights = sum(before[name].numel() for name in changed)
    summary = edit.summary()
    assert (summary["layers"], summary["weights"]) == (len(changed), weights)
    assert {f"{name}.weight" for name in summary["per_layer"]} == changed and min(summary["per_layer"].values()) > 0


def test_padding_that_a_transformer_does_not_look_at_is_not_edited():
    family = family_of(tiny_pixart())
    edit = text_edit(family)
    edit.gather([("a dress", "a coat")], [], noise_of(family, 1)[0])
    (one,) = edit._edits.values()
    assert one.edits == 3  # "a" is read in the light of the word after it, and the end of text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # start 8, end 9: one word for another, then the padding
        ([8, 1, 2, 9], [8, 1, 3, 9], [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]),
        # one word for two: the last one answers, and the end of the padding has nobody
        ([8, 1, 2, 9], [8, 1, 3, 4, 9], [(0, 0), (1, 1), (2, 3), (3, 4), (4, 5)]),
        # two words for one
        ([8, 1, 2, 3, 9], [8, 1, 4, 9], [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (5, 4)]),
        # a word left out: the one before it answers
        ([8, 1, 2, 3, 9], [8, 1, 3, 9], [(0, 0), (1, 1), (2, 1), (3, 2), (4, 3), (5, 4)]),
        # nothing at all instead
        ([8, 1, 9], [8, 9], [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]),
        # no start of text, nothing in common
        ([1, 2], [3], [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]),
        # the same
        ([8, 1, 9], [8, 1, 9], [(place, place) for place in range(6)]),
    ],
)
def test_places_of_two_prompts_belong_together(old, new, expected):
    assert matching_places(old, new, 6) == expected


def test_repair_begins_with_the_edit_and_holds_its_answers():
    pipe = tiny_stable_diffusion()
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    report = erase_concept(pipe, "dress", learning_rate=1e-30, anchor="coat", **QUICK)
    assert report.trim["trimmed"] == 0
    changed = {name for name, value in pipe.unet.state_dict().items() if not torch.allclose(value, before[name], atol=1e-20)}
    assert changed and all(".attn2.to_" in name for name in changed)
    assert report.edit["layers"] == len(changed) and report.edit["instead"] == ["coat"]
    assert report.to_dict()["edit"] == report.edit
    for name, share in report.edit["per_layer"].items():
        old, new = before[f"{name}.weight"], pipe.unet.get_submodule(name).weight
        assert share == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-3)
    # The forget target is what the edited layers predict: at a rate of nothing, repair is at its target from the start.
    assert report.history[0]["forget_loss"] < 1e-8


def test_layers_that_the_edit_solves_for_cannot_be_cut():
    pipe = tiny_stable_diffusion()
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    with pytest.raises(ValueError, match=r"reinit_target_modules holds 'mid_block.*attn2.*negative_guidance"):
        erase_concept(pipe, "dress", recipe="concept", reinit_target_modules=["mid_block"], trim_ratio=0.01, **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"closed_form_overshoot": -1}, "closed_form_overshoot=-1"),
        ({"closed_form_keep_weight": float("nan")}, "closed_form_keep_weight=nan"),
        ({"closed_form_ridge": 0}, "closed_form_ridge=0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        erase_concept(tiny_stable_diffusion(), "dress", **settings)
