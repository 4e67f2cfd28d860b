"""Which weights: patterns, defaults by architecture, tied weights."""

import pytest
import tiny_models
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from scissorhands_hf.trainer.scopes import match_parameters, resolve_scopes


def scopes_of(model: nn.Module, config, **values):
    return resolve_scopes(model, config(**values))


def test_resnet_defaults_to_the_last_two_stages_and_the_head(config) -> None:
    model = ResNetForImageClassification(ResNetConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], embedding_size=8))
    scopes = scopes_of(model, config)
    expected = [
        name
        for name, _ in model.named_parameters()
        if name.startswith(("resnet.encoder.stages.2.", "resnet.encoder.stages.3.", "classifier."))
        and "normalization" not in name
    ]
    assert scopes.reinit == expected
    assert len(scopes.trained) == len(list(model.parameters()))
    assert "last 2 of 4 stages" in scopes.reinit_origin


def test_vit_defaults_to_the_last_third_of_the_blocks_and_the_head(config) -> None:
    settings = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 16, "patch_size": 8}
    model = ViTForImageClassification(ViTConfig(num_hidden_layers=7, **settings))
    reinit = scopes_of(model, config).reinit
    blocks = {name.split("layers.")[1].split(".")[0] for name in reinit if "layers." in name}
    assert blocks == {"5", "6"}
    assert {"classifier.weight", "classifier.bias"} <= set(reinit)
    assert not any("norm" in name or "embeddings" in name for name in reinit)


def test_bert_takes_the_pooler_and_the_classifier_as_head(config) -> None:
    reinit = scopes_of(tiny_models.tiny_bert()[0], config).reinit
    heads = {
        name.split(".")[0] if name.startswith("classifier") else name.split(".")[1] for name in reinit if "encoder" not in name
    }
    assert heads == {"pooler", "classifier"}
    assert not any("LayerNorm" in name for name in reinit)


@pytest.mark.parametrize("tied", [True, False])
def test_llama_leaves_a_head_tied_to_the_embedding_alone(tied: bool, config) -> None:
    settings = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3}
    model = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=tied, **settings))
    reinit = scopes_of(model, config).reinit
    assert "model.embed_tokens.weight" not in reinit
    assert ("lm_head.weight" in reinit) is not tied
    assert {name.split(".")[2] for name in reinit if name.startswith("model.layers")} == {"2"}


def test_torchvision_names_are_a_resnet_too(config) -> None:
    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 4, 3)
            for index in range(1, 5):
                setattr(self, f"layer{index}", nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))))
            self.fc = nn.Linear(4, 2)

    reinit = scopes_of(ResNet(), config).reinit
    assert reinit == [f"layer{i}.0.0.{kind}" for i in (3, 4) for kind in ("weight", "bias")] + ["fc.weight", "fc.bias"]


def test_a_tied_weight_matches_by_any_name_and_counts_once(config) -> None:
    scopes = scopes_of(tiny_models.tiny_llama()[0], config, reinit_target_modules="lm_head")
    assert scopes.reinit == ["model.embed_tokens.weight"]


def test_a_plain_model_without_blocks_must_name_its_scope(config) -> None:
    with pytest.raises(ValueError, match=r"reinit_target_modules=None.*grouped\.weight"):
        scopes_of(tiny_models.tiny_cnn()[0], config)


NAMES = [
    "encoder.layers.0.attention.weight",
    "encoder.layers.1.attention.weight",
    "encoder.layers.10.mlp.weight",
    "head.weight",
]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("head", [3]),
        ("layers.1", [1]),  # not layers.10
        ("encoder", [0, 1, 2]),
        ("head.weight", [3]),
        ("*.attention.*", [0, 1]),
        ("encoder.layers.?.*", [0, 1]),
        ("encoder.layers.1*", [1, 2]),
        (r"re:layers\.\d\.", [0, 1]),
        (r"re:^head", [3]),
    ],
)
def test_patterns(pattern: str, expected: list[int]) -> None:
    parameters = {name: nn.Parameter() for name in NAMES}
    assert list(match_parameters(parameters, [pattern], "x")) == [NAMES[index] for index in expected]


def test_a_pattern_that_matches_nothing_lists_near_names() -> None:
    parameters = {name: nn.Parameter() for name in NAMES}
    with pytest.raises(
        ValueError, match=r"reinit_target_modules: the pattern 'encoder.layer.1' matches no .*encoder\.layers\.1"
    ):
        match_parameters(parameters, ["head", "encoder.layer.1"], "reinit_target_modules")
    with pytest.raises(ValueError, match=r"'zzz' matches no parameter. Names begin with: encoder\.layers, head\.weight"):
        match_parameters(parameters, ["zzz"], "x")
    with pytest.raises(ValueError, match="no valid regular expression"):
        match_parameters(parameters, ["re:("], "x")
    with pytest.raises(ValueError, match="holds no pattern"):
        match_parameters(parameters, [], "x")
