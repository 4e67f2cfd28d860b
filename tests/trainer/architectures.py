"""Tiny models of many architectures, each with one batch, a good part of which are saved under other names than they live by.

Every function returns ``(model, batch)`` as those of `tiny_models` do; ``batch`` may hold a list of one dict for each example.
"""

from collections.abc import Callable
from typing import Any

import tiny_models
import torch
from tiny_models import CLASSES, VOCABULARY
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    DetrConfig,
    DetrForObjectDetection,
    Dinov2Config,
    Dinov2ForImageClassification,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    ResNetConfig,
    SwinConfig,
    SwinForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
)


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, **SIZES}
IMAGE = {"image_size": 16, "patch_size": 8, "num_channels": 1}


def swin() -> tuple[PreTrainedModel, Any]:
    config = SwinConfig(
        **{**IMAGE, "patch_size": 2}, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2, num_labels=CLASSES
    )
    return SwinForImageClassification(config), images()


def dinov2() -> tuple[PreTrainedModel, Any]:
    return Dinov2ForImageClassification(Dinov2Config(**IMAGE, num_labels=CLASSES, **SIZES)), images()


def detr() -> tuple[PreTrainedModel, Any]:
    """With a ResNet in it, whose BatchNorm is frozen, and labels that are one dict for each image."""
    backbone = ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=5,
        num_labels=3,
    )
    boxes = [
        {"class_labels": torch.tensor([index % 3]), "boxes": torch.tensor([[0.5, 0.5, 0.2 + 0.1 * index, 0.3]])}
        for index in range(6)
    ]
    return DetrForObjectDetection(config), {"pixel_values": torch.randn(6, 3, 32, 32), "labels": boxes}


def clip() -> tuple[PreTrainedModel, Any]:
    vision = {"image_size": 16, "patch_size": 8, **SIZES}
    config = CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=16)
    return CLIPModel(config), {
        "pixel_values": torch.randn(6, 3, 16, 16),
        "input_ids": torch.randint(3, VOCABULARY, (6, 8)),
        "return_loss": True,
    }


def llava() -> tuple[PreTrainedModel, Any]:
    """With its tower of vision, which text alone leaves as it is."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=16, patch_size=8, **SIZES),
        text_config=LlamaConfig(num_key_value_heads=2, **TEXT),
        image_token_index=VOCABULARY - 1,
    )
    return LlavaForConditionalGeneration(config), text()


def mixtral() -> tuple[PreTrainedModel, Any]:
    """Its experts are one tensor each in the file, and one together in the model."""
    return MixtralForCausalLM(MixtralConfig(num_key_value_heads=2, num_local_experts=4, **TEXT)), text()


def qwen3_moe() -> tuple[PreTrainedModel, Any]:
    sizes = {"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **TEXT)), text()


def tied_qwen3_moe() -> tuple[PreTrainedModel, Any]:
    """Both: experts that are joined, and an output layer that is the embedding."""
    sizes = {"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(tie_word_embeddings=True, **sizes, **TEXT)), text()


def t5() -> tuple[PreTrainedModel, Any]:
    """Three names for one embedding."""
    config = T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config), text()


def images() -> dict[str, Any]:
    return {"pixel_values": torch.randn(6, 1, 16, 16), "labels": torch.arange(6) % CLASSES}


def text() -> dict[str, Any]:
    tokens = torch.randint(3, VOCABULARY - 1, (6, 8))
    return {"input_ids": tokens, "labels": tokens.clone()}


ARCHITECTURES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "vit": tiny_models.tiny_vit,
    "swin": swin,
    "dinov2": dinov2,
    "detr": detr,
    "clip": clip,
    "llava": llava,
    "mixtral": mixtral,
    "qwen3_moe": qwen3_moe,
    "tied_qwen3_moe": tied_qwen3_moe,
    "resnet": tiny_models.tiny_resnet,
    "bert": tiny_models.tiny_bert,
    "llama": tiny_models.tiny_llama,
    "gpt2": tiny_models.tiny_gpt2,
    "t5": t5,
    "plain_cnn": tiny_models.tiny_cnn,
    "plain_sequence": tiny_models.tiny_sequence,
}


def build(name: str, seed: int = 0) -> tuple[Any, Any]:
    """One of them; with another seed other weights, and another batch."""
    torch.manual_seed(seed)
    make = ARCHITECTURES[name]
    return make(seed) if make.__module__ == tiny_models.__name__ else make()


def rows(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """The batch's examples. What is the same for all of them is in each."""
    count = next(len(value) for value in batch.values() if isinstance(value, torch.Tensor))
    return [{key: value[i] if hasattr(value, "__len__") else value for key, value in batch.items()} for i in range(count)]


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """The inverse of `rows`."""

    def joined(values: list[Any]) -> Any:
        if isinstance(values[0], torch.Tensor):
            return torch.stack(values)
        return values if isinstance(values[0], dict) else values[0]

    return {key: joined([example[key] for example in examples]) for key in examples[0]}
