"""Folders of tiny classifiers as `save_pretrained` leaves them, and data for them: for what runs as a process of its own."""

import csv
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer, ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil


def tiny_image_classifier(folder: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=28, patch_size=7, num_channels=1, num_labels=10, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)


def tiny_text_classifier(folder: Path) -> None:
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "book", "plot", "the", "a", "was", "very"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, num_labels=2
    )
    BertForSequenceClassification(config).save_pretrained(folder)


def reviews(file: Path) -> None:
    """Sixty reviews by six authors, u0 to u5, ten each."""
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "label", "author"])
        for index in range(60):
            good = index % 2
            words = f"the {'film' if index % 3 else 'book'} was {'very ' * (index % 4)}{'good' if good else 'bad'}"
            writer.writerow([words, good, f"u{index % 6}"])
