"""The default ceiling of ascent, over tasks whose loss is not that of K classes: something ascends, and it stops."""

import logging
import math
from typing import Any

import pytest
import tiny_models
import torch
from tiny_data import examples, retain_and_forget
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    T5Config,
    T5ForConditionalGeneration,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.core.modes import evaluation_mode


SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}


def bert(kind: type, **values: Any) -> nn.Module:
    return kind(BertConfig(vocab_size=tiny_models.VOCABULARY, max_position_embeddings=32, **SHAPE, **values))


def tokens(count: int, seed: int) -> Tensor:
    return torch.randint(3, tiny_models.VOCABULARY, (count, 8), generator=torch.Generator().manual_seed(seed))


def rows(**columns: Any) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def language(count: int, seed: int) -> list[dict]:
    return rows(input_ids=tokens(count, seed), labels=tokens(count, seed))


def translation(count: int, seed: int) -> list[dict]:
    return rows(input_ids=tokens(count, seed), labels=tokens(count, seed + 50))


def regression(count: int, seed: int) -> list[dict]:
    values = 4 * torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return rows(input_ids=tokens(count, seed), labels=values)


def several_labels(count: int, seed: int) -> list[dict]:
    return rows(input_ids=tokens(count, seed), labels=(tokens(count, seed + 9)[:, :4] % 2).float())


def speech(count: int, seed: int) -> list[dict]:
    sounds = torch.randn(count, 640, generator=torch.Generator().manual_seed(seed))
    return rows(input_values=sounds, labels=tokens(count, seed)[:, :5] % 10 + 1)


def pixels(count: int, seed: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def segmentation(count: int, seed: int) -> list[dict]:
    images = pixels(count, seed, 32)
    return rows(pixel_values=images, labels=(images.mean(1) > 0.3).long() + (images[:, 0] > 1).long())


def detection(count: int, seed: int) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    labels = [
        {
            "class_labels": torch.randint(0, 3, (2,), generator=generator),
            "boxes": 0.2 + 0.3 * torch.rand(2, 4, generator=generator),
        }
        for _ in range(count)
    ]
    return rows(pixel_values=pixels(count, seed, 16), labels=labels)


class TinyDetector(nn.Module):
    """As DETR: labels are a list of dicts, the logits are of queries and not of examples."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.boxes = nn.Linear(768, 24), nn.Linear(24, 8), nn.Linear(24, 8)

    def forward(self, pixel_values: Tensor, labels: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        hidden = torch.tanh(self.body(pixel_values.flatten(1)))
        logits, boxes = self.classes(hidden).view(-1, 2, 4), self.boxes(hidden).view(-1, 2, 4)
        wanted = torch.cat([label["class_labels"] for label in labels])
        distance = F.l1_loss(boxes, torch.stack([label["boxes"] for label in labels]))
        return {"loss": F.cross_entropy(logits.flatten(0, 1), wanted) + 5 * distance, "logits": logits, "pred_boxes": boxes}


def detection_batch(items: list[dict]) -> dict[str, Any]:
    return {"pixel_values": torch.stack([item["pixel_values"] for item in items]), "labels": [item["labels"] for item in items]}


def ctc() -> nn.Module:
    return Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=12, conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 4), num_feat_extract_layers=2,
            num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, apply_spec_augment=False, layerdrop=0.0, **SHAPE,
        )
    )  # fmt: skip


def segformer() -> nn.Module:
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            num_labels=3, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=16,
        )
    )  # fmt: skip


def t5() -> nn.Module:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=tiny_models.VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4,
            decoder_start_token_id=0,
        )
    )  # fmt: skip


TASKS = {
    "ctc": (ctc, speech),
    "detection": (TinyDetector, detection),
    "segmentation": (segformer, segmentation),
    "causal": (lambda: tiny_models.tiny_gpt2()[0], language),
    "masked": (lambda: bert(BertForMaskedLM), translation),
    "seq2seq": (t5, translation),
    "regression": (lambda: bert(BertForSequenceClassification, num_labels=1), regression),
    "several labels": (
        lambda: bert(BertForSequenceClassification, num_labels=4, problem_type="multi_label_classification"),
        several_labels,
    ),
}


def learned(name: str) -> tuple[nn.Module, list[dict], list[dict]]:
    """A model that has learned both of its sets by heart, as far as a few steps go."""
    build, data = TASKS[name]
    torch.manual_seed(0)
    model, sets = build(), (data(6, 1), data(4, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch = collate(name)([*sets[0], *sets[1]])
    with evaluation_mode(model):
        for _ in range(40):
            optimizer.zero_grad()
            model(**batch)["loss"].backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model, *sets


def collate(name: str) -> Any:
    if name == "detection":
        return detection_batch
    return lambda items: {key: torch.stack([item[key] for item in items]) for key in items[0]}


@pytest.mark.parametrize("name", TASKS)
def test_ascent_begins_and_stops_by_the_tasks_own_loss(name: str, config, caplog) -> None:
    model, retain, forget = learned(name)
    args = config(
        reinit_target_modules=["*"], trim_ratio=0, forget_weight=1.0, projection=False, per_device_forget_batch_size=4,
        divergence_factor=math.inf, forget_objective="ascent",
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "scissorhands_hf"):
        trainer = ScissorhandsTrainer(
            model=model, args=args, train_dataset=retain, forget_dataset=forget, data_collator=collate(name)
        )
    assert not [record for record in caplog.records if "ascend" in record.message]
    ceiling = trainer.forget_loss_ceiling
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    batch = collate(name)(forget)
    losses = []
    with evaluation_mode(model):
        for _ in range(600):
            optimizer.zero_grad()
            loss = trainer.compute_forget_loss(model, batch)
            losses.append(loss.item())
            trainer.forget_term(loss).backward()
            if all(p.grad is None or not p.grad.any() for p in model.parameters()):
                break
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
    assert losses[0] < ceiling <= losses[-1]  # it ascended, and no gradient was left
    assert math.isfinite(losses[-1])
    if name == "several labels":
        assert ceiling == pytest.approx(2 * math.log(2))
    if name in ("causal", "masked", "seq2seq"):
        assert ceiling <= 1.25 * math.log(tiny_models.VOCABULARY) + 1e-6


def test_segmentation_does_not_take_the_width_for_the_number_of_classes(config) -> None:
    model, retain, forget = learned("segmentation")
    trainer = ScissorhandsTrainer(
        model=model, args=config(reinit_target_modules=["*"]), train_dataset=retain, forget_dataset=forget,
        data_collator=collate("segmentation"),
    )  # fmt: skip
    rolled = collate("x")(retain[:2])
    with evaluation_mode(model), torch.no_grad():
        wrong = model(rolled["pixel_values"], labels=rolled["labels"].roll(1, 0)).loss.item()
    assert trainer.forget_loss_ceiling == pytest.approx(1.25 * wrong, rel=0.5)


def test_the_unseen_part_of_the_evaluation_sets_is_the_measure_where_there_is_one(config) -> None:
    model, retain, forget = learned("causal")
    unseen = language(4, 9)
    for name in ("test", "unseen"):
        args = config(per_device_forget_batch_size=4, forget_objective="ascent")
        trainer = ScissorhandsTrainer(
            model=model, args=args, train_dataset=retain, forget_dataset=forget, eval_dataset={"retain": retain, name: unseen}
        )
        batch = collate("causal")(unseen)
        with evaluation_mode(model), torch.no_grad():
            assert trainer.forget_loss_ceiling == pytest.approx(model(**batch).loss.item(), rel=1e-5)
        assert repr(name) in trainer.report().settings["forget_loss_ceiling_source"]


def test_a_ceiling_below_the_first_forget_loss(config, caplog) -> None:
    """The default is warned of, the user's own refused."""
    model, retain, forget = retain_and_forget(tiny_models.tiny_resnet)
    with pytest.raises(ValueError, match=r"forget_loss_ceiling=0\.5, and the forget loss is [\d.]+ to begin with"):
        ScissorhandsTrainer(model=model, args=config(forget_loss_ceiling=0.5), train_dataset=retain, forget_dataset=forget)
    with caplog.at_level(logging.WARNING, "scissorhands_hf"):
        model, retain, forget = retain_and_forget(tiny_models.tiny_llama)
        ScissorhandsTrainer(
            model=model, args=config(forget_objective="ascent"), train_dataset=retain, forget_dataset=forget,
            eval_dataset={"unseen": forget},
        )  # fmt: skip
    assert any("nothing will ascend" in record.message for record in caplog.records)


def test_a_loss_of_ones_own_is_measured_though_its_logits_look_like_classes(config) -> None:
    def squared(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return 50 * (outputs.logits - F.one_hot(labels, tiny_models.CLASSES)).square().mean()

    model, batch = tiny_models.tiny_bert()
    trainer = ScissorhandsTrainer(
        model=model, args=config(), train_dataset=examples(batch, 12, 1), forget_dataset=examples(batch, 4, 2),
        compute_loss_func=squared,
    )  # fmt: skip
    assert trainer.forget_loss_ceiling > 2 * math.log(tiny_models.CLASSES)
    assert trainer.report().settings["forget_loss_ceiling_source"].startswith("the loss with the labels of other examples")
