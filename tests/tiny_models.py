"""Tiny real models made from a configuration, offline, each with one batch that yields a loss.

Every function returns ``(model, batch)``; ``model(**batch)["loss"]`` is a scalar. Same seed, same weights and batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)


Batch = dict[str, Tensor]
CLASSES = 5
VOCABULARY = 61


def tiny_resnet(seed: int = 0) -> tuple[PreTrainedModel, Batch]:
    """Two basic blocks of ResNet on 12 x 12 grey images."""
    torch.manual_seed(seed)
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=CLASSES
    )
    return ResNetForImageClassification(config), _images(8, 1, 12)


def tiny_vit(seed: int = 0) -> tuple[PreTrainedModel, Batch]:
    """Two layers of ViT on 16 x 16 grey images."""
    torch.manual_seed(seed)
    config = ViTConfig(image_size=16, patch_size=8, num_channels=1, num_labels=CLASSES, **_transformer())
    return ViTForImageClassification(config), _images(6, 1, 16)


def tiny_bert(seed: int = 0) -> tuple[PreTrainedModel, Batch]:
    """Two layers of BERT with a sequence classifier; padding token 0, as in the real thing."""
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=32, num_labels=CLASSES, **_transformer())
    model = BertForSequenceClassification(config)
    tokens, mask = torch.randint(1, VOCABULARY, (6, 12)), torch.ones(6, 12, dtype=torch.long)
    tokens[:3, 8:], mask[:3, 8:] = 0, 0
    return model, {"input_ids": tokens, "attention_mask": mask, "labels": torch.arange(6) % CLASSES}


def tiny_llama(seed: int = 0) -> tuple[PreTrainedModel, Batch]:
    """Two layers of Llama whose output layer shares its weight with the embedding."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=32,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        **_transformer(),
    )
    return LlamaForCausalLM(config), _text()


def tiny_gpt2(seed: int = 0) -> tuple[PreTrainedModel, Batch]:
    """Two layers of GPT-2: Conv1D layers, a fused attention weight, and residual weights with their own scale."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    return GPT2LMHeadModel(config), _text()


class TinyCNN(nn.Module):
    """A plain module with a grouped convolution and a BatchNorm; returns loss and logits like a Hub model."""

    def __init__(self, channels: int = 8):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.grouped = nn.Conv2d(channels, channels, 3, padding=1, groups=4, bias=False)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        hidden = F.relu(self.norm(self.stem(pixel_values)))
        hidden = F.relu(self.grouped(hidden)).mean((2, 3))
        logits = self.head(hidden)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def tiny_cnn(seed: int = 0) -> tuple[TinyCNN, Batch]:
    """A plain PyTorch image classifier."""
    torch.manual_seed(seed)
    return TinyCNN(), _images(8, 1, 10)


class TinySequence(nn.Module):
    """A plain module with the layers whose weights are fused, flattened or partly fixed."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.embed(input_ids)
        hidden = self.attention(hidden, hidden, hidden, need_weights=False)[0]
        logits = self.head(self.lstm(hidden)[0].mean(1))
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def tiny_sequence(seed: int = 0) -> tuple[TinySequence, Batch]:
    """A plain PyTorch text classifier: padded embedding, nn.MultiheadAttention, bidirectional nn.LSTM."""
    torch.manual_seed(seed)
    model, tokens = TinySequence(), torch.randint(1, VOCABULARY, (6, 7))
    tokens[:2, 5:] = 0
    return model, {"input_ids": tokens, "labels": torch.arange(6) % CLASSES}


def _transformer() -> dict[str, int]:
    return {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def _images(count: int, channels: int, side: int) -> Batch:
    return {"pixel_values": torch.randn(count, channels, side, side), "labels": torch.arange(count) % CLASSES}


def _text() -> Batch:
    tokens = torch.randint(3, VOCABULARY, (4, 10))
    return {"input_ids": tokens, "labels": tokens.clone()}


def bert_with_dropout() -> tuple[PreTrainedModel, Batch]:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=5
    )
    return BertForSequenceClassification(config), tiny_bert()[1]
