"""Runs by the objectives of language models: other answers, what is kept of the original, resuming, and refusals by name."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from architectures import mixtral
from datasets import Dataset
from safetensors.torch import load_file
from test_accumulation import tiny_masked_bert, tiny_t5
from test_objective_steps import forget_set
from tiny_data import examples, padded_text, retain_and_forget
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.hub.folder import uploadable_files
from scissorhands_hf.hub.run import load_run
from scissorhands_hf.trainer.other_answers import OTHER_ANSWER


ANSWER_COLUMNS = ["counterfactual_input_ids", "counterfactual_labels"]


def trainer_for(config, model: Any = None, retain: Any = None, forget: Any = None, **settings: Any) -> ScissorhandsTrainer:
    extra = {name: settings.pop(name) for name in ("processing_class", "compute_loss_func") if name in settings}
    return ScissorhandsTrainer(
        model=tiny_models.tiny_llama()[0] if model is None else model,
        args=config(**{"trim_ratio": 0, "reinit_target_modules": ["*"], **settings}),
        train_dataset=padded_text(8, 1) if retain is None else retain,
        forget_dataset=forget_set() if forget is None else forget,
        **extra,
    )


def unanswered() -> Dataset:
    """A forget set without other answers."""
    return forget_set().remove_columns(ANSWER_COLUMNS)


def weights(trainer: ScissorhandsTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


# ---- Resuming ----


@pytest.mark.parametrize(
    "settings",
    [
        {"forget_objective": "npo"},
        {"forget_objective": "dpo"},
        {"forget_objective": "undial", "retain_objective": "kl", "reference_top_k": 8},
        {"forget_objective": "rmu", "trim_ratio": 0.01},
    ],
)
def test_a_resumed_run_compares_with_the_same_original(settings: dict, config, tmp_path: Path) -> None:
    common = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2, **settings}
    whole = trainer_for(config, **common)
    whole.train()
    kept = load_file(tmp_path / "out" / "checkpoint-3" / "reference_scores.safetensors")
    resumed = trainer_for(config, **common)
    asked = []
    resumed.ask_original = lambda: asked.append(True)  # it would be asked of changed weights
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert not asked
    assert torch.equal(weights(whole), weights(resumed))
    last = load_file(tmp_path / "out" / "checkpoint-6" / "reference_scores.safetensors")
    assert kept.keys() == last.keys() and all(torch.equal(kept[key], last[key]) for key in kept)


def test_a_second_run_asks_the_model_as_it_is_by_then(config) -> None:
    trainer = trainer_for(config, forget_objective="npo", learning_rate=1e-2)
    first = trainer.train() and trainer._references["forget"].state_dict()["log_probs.values"]
    again = trainer.train() and trainer._references["forget"].state_dict()["log_probs.values"]
    assert (first - again).abs().max() > 0.01


def test_a_checkpoint_of_a_run_without_the_original_is_refused(config, tmp_path: Path) -> None:
    trainer_for(config, save_strategy="steps", save_steps=1, forget_loss_ceiling=1e9).train()
    resumed = trainer_for(config, forget_objective="npo")
    with pytest.raises(ValueError, match="checkpoint-1.* holds no scores of forget examples by the original"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))


def test_what_the_original_said_is_never_pushed(config, tmp_path: Path) -> None:
    trainer = trainer_for(config, forget_objective="npo", save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model()
    source, info = tmp_path / "out", load_run(tmp_path / "out").info
    assert (source / "checkpoint-1" / "reference_scores.safetensors").is_file()
    (source / "reference_scores.safetensors").write_bytes(b"copied here by hand")
    files = uploadable_files(source, info)
    assert "model.safetensors" in files and not [name for name in files if "reference" in name or "checkpoint" in name]


def test_examples_that_change_from_one_reading_to_the_next_are_refused(config) -> None:
    class Changing(torch.utils.data.Dataset):
        reads = 0

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            Changing.reads += 1
            labels = torch.arange(5, 15)
            labels[: Changing.reads % 7] = -100
            return {"input_ids": torch.arange(5, 15), "labels": labels}

    trainer = trainer_for(config, forget=Changing(), forget_objective="undial", per_device_forget_batch_size=1)
    with pytest.raises(ValueError, match="of the forget set have .* labelled tokens, and had"):
        trainer.train()


# ---- Runs ----


@pytest.mark.parametrize("name", ["ascent", "gradient_difference", "npo", "simnpo", "dpo", "undial", "rmu", "counterfactual"])
def test_every_objective_forgets(name: str, config) -> None:
    """A model that knows the forget set by heart: afterwards its loss there is higher, and the report says by what."""
    model, forget = tiny_models.tiny_llama()[0], forget_set()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(input_ids=forget[:]["input_ids"], labels=forget[:]["labels"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.3
    settings = {"forget_loss_ceiling": 3.0} if name == "ascent" else {}
    trainer = trainer_for(
        config, model, forget_objective=name, forget_weight=100.0 if name == "rmu" else 1.0, learning_rate=1e-2,
        num_train_epochs=12, projection=False, divergence_factor=100.0, **settings,
    )  # fmt: skip
    trainer.train()
    with torch.no_grad():
        after = model(input_ids=forget[:]["input_ids"], labels=forget[:]["labels"]).loss
    assert after > loss + 0.5
    report = trainer.report()
    assert report.settings["forget_objective"] == name
    json.dumps(report.to_dict(), allow_nan=False)
    rows = [row for row in report.history if "retain_loss" in row]
    assert rows and all(("forget_objective" in row) == (name not in ("ascent", "gradient_difference")) for row in rows)


def test_a_classifier_learns_other_labels(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_bert)
    other = [(int(label) + 1) % tiny_models.CLASSES for label in forget["labels"][:]]
    forget = forget.add_column("counterfactual_labels", other)
    trainer = trainer_for(
        config, model, retain, forget, forget_objective="counterfactual", learning_rate=3e-3, num_train_epochs=20,
        reinit_target_modules=None, divergence_factor=100.0,
    )  # fmt: skip
    trainer.train()
    with torch.no_grad():
        said = model.eval()(input_ids=forget[:]["input_ids"], attention_mask=forget[:]["attention_mask"]).logits.argmax(-1)
    assert said.tolist() == other


def test_rmu_leads_activations_towards_one_direction(config) -> None:
    trainer = trainer_for(
        config, forget_objective="rmu", rmu_layer=1, learning_rate=1e-2, num_train_epochs=20, divergence_factor=100.0,
        forget_weight=1000.0, projection=False,
    )  # fmt: skip
    rows = forget_set()[:]
    seen = rows["labels"][:, 1:] != -100
    trainer.train()
    direction, coefficient = trainer._direction, trainer.args.rmu_coefficient
    with torch.no_grad():
        hidden = trainer.model(input_ids=rows["input_ids"], output_hidden_states=True).hidden_states[1][:, :-1][seen]
        fresh = tiny_models.tiny_llama()[0].eval()
        norms = fresh(input_ids=rows["input_ids"], output_hidden_states=True).hidden_states[1][:, :-1][seen].norm(dim=-1)
    aim = coefficient * norms.mean() * direction
    assert direction.norm().item() == pytest.approx(1)
    assert (hidden - aim).square().mean() < 0.5 * aim.square().mean()


# ---- Refused answers ----


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[END]", "[UNK]", "who", "wrote", "it", "Ann", "Bob", "no", "idea", "nobody", "knows", "?"]
    plain = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="[END]", pad_token="[PAD]", unk_token="[UNK]")


def questions(answers: list[list[int]]) -> list[dict[str, list[int]]]:
    prompt = [3, 4, 5, 12]
    return [
        {
            "input_ids": [*prompt, *answer],
            "labels": [-100] * 4 + answer,
            "attention_mask": [1] * (4 + len(answer)),
        }
        for answer in answers
    ]


def test_refusals_follow_the_prompt_and_end_as_the_answer_did(config, tokenizer) -> None:
    forget = questions([[6, 7, 1], [7, 1], [6, 6, 6, 1]])
    trainer = ScissorhandsTrainer(
        model=tiny_models.tiny_llama()[0],
        args=config(forget_objective="idk", refusal_answers=["no idea", "nobody knows it"], trim_ratio=0),
        data_collator=collate,
        train_dataset=questions([[8, 1]] * 3),
        forget_dataset=forget,
        processing_class=tokenizer,
    )
    batch = trainer.sets["forget"].batch([0, 1, 2])
    assert batch["labels"][0].tolist() == [-100] * 4 + [6, 7, 1, -100]
    assert batch[OTHER_ANSWER]["labels"].tolist() == [
        [-100] * 4 + [8, 9, 1, -100],
        [-100] * 4 + [10, 11, 5, 1],
        [-100] * 4 + [8, 9, 1, -100],
    ]
    assert batch[OTHER_ANSWER]["input_ids"][0].tolist() == [3, 4, 5, 12, 8, 9, 1, 0]
    assert batch[OTHER_ANSWER]["attention_mask"][0].tolist() == [1] * 7 + [0]
    trainer.train()
    assert trainer.report().settings["forget_weight"] == 1


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    width, fill = max(len(row["input_ids"]) for row in rows), {"labels": -100}
    return {
        name: torch.tensor([[*row[name], *[fill.get(name, 0)] * (width - len(row[name]))] for row in rows]) for name in rows[0]
    }


# ---- What does not fit is refused by name ----


def test_models_without_logits_of_tokens(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_bert)
    for name in ("npo", "simnpo", "undial", "rmu"):
        with pytest.raises(ValueError, match=f"forget_objective='{name}'.*BertForSequenceClassification.*Use 'ascent'"):
            trainer_for(config, model, retain, forget, forget_objective=name, reinit_target_modules=None)
    with pytest.raises(ValueError, match="retain_objective='kl'.*Use 'data'"):
        trainer_for(config, model, retain, forget, retain_objective="kl", reinit_target_modules=None)


def test_a_loss_that_is_not_that_of_the_tokens(config) -> None:
    """A mixture of experts adds a loss of its routers to that of the tokens."""
    model, batch = mixtral()
    model.config.output_router_logits = True
    model.router_aux_loss_coef = 1.0
    retain, forget = examples(batch, 8, 1), examples(batch, 4, 2)
    with pytest.raises(ValueError, match="forget_objective='npo'.*the mean loss of its labelled tokens"):
        trainer_for(config, model, retain, forget, forget_objective="npo")


def test_other_answers_that_are_missing(config) -> None:
    with pytest.raises(ValueError, match="forget_objective='counterfactual' needs another answer.*counterfactual_labels"):
        trainer_for(config, forget=padded_text(4, 2), forget_objective="counterfactual")
    with pytest.raises(ValueError, match="forget_objective='dpo' needs another answer.*or refusal_answers"):
        trainer_for(config, forget=padded_text(4, 2), forget_objective="dpo")


@pytest.mark.parametrize("name", ["dpo", "counterfactual", None])
def test_other_answers_that_are_the_own_ones(name: str | None, config) -> None:
    """They would teach what is to be forgotten."""
    rows = forget_set().with_format(None)
    own = {f"counterfactual_{column}": rows[5][column] for column in ("input_ids", "labels")}
    forget = Dataset.from_list([*rows.select(range(5)), {**rows[5], **own}]).with_format("torch")
    with pytest.raises(ValueError, match=r"forget_dataset\[5\] has its own answer as the other answer"):
        trainer_for(config, forget=forget, forget_objective=name).train()


def test_a_row_without_another_answer_is_told_by_its_number(config) -> None:
    rows = forget_set().with_format(None)
    some = Dataset.from_list([*rows.select(range(7)), {**rows[7], **dict.fromkeys(ANSWER_COLUMNS)}]).with_format("torch")
    with pytest.raises(ValueError, match=r"forget_dataset\[7\] has no other answer beside it"):
        trainer_for(config, forget=some, forget_objective="dpo").train()


def test_refusals_without_a_tokenizer_or_a_prompt(config, tokenizer) -> None:
    settings = {"forget_objective": "idk", "refusal_answers": "no idea"}
    with pytest.raises(ValueError, match=r"refusal_answers=\['no idea'\].*processing_class is a NoneType"):
        trainer_for(config, **settings)
    with pytest.raises(ValueError, match="forget example 0 has no labels of -100 on its prompt"):
        trainer_for(config, forget=padded_text(4, 2), processing_class=tokenizer, **settings)


def test_rmu_on_an_encoder_or_beyond_the_last_layer(config) -> None:
    with pytest.raises(ValueError, match="forget_objective='rmu'.*has an encoder"):
        trainer_for(config, tiny_t5(), forget_objective="rmu")
    with pytest.raises(ValueError, match="rmu_layer=9 is beyond the model's 2 layers"):
        trainer_for(config, forget_objective="rmu", rmu_layer=9)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"objective_beta": 0.1}, "objective_beta=0.1 is of forget_objective='npo' or 'simnpo' or 'dpo' or 'undial'"),
        ({"forget_objective": "npo", "objective_beta": 0.0}, "objective_beta=0.0 must be a number > 0"),
        ({"forget_objective": "npo", "simnpo_gamma": 0.1}, "simnpo_gamma=0.1 is of forget_objective='simnpo'"),
        ({"forget_objective": "simnpo", "simnpo_gamma": -1.0}, "simnpo_gamma=-1.0"),
        ({"forget_objective": "npo", "refusal_answers": ["no"]}, r"refusal_answers=\['no'\] is of"),
        ({"forget_objective": "idk"}, "forget_objective='idk' needs refusal_answers"),
        ({"forget_objective": "idk", "refusal_answers": [" "]}, "refusal_answers"),
        ({"forget_objective": "npo", "rmu_layer": 3}, "rmu_layer=3 is of forget_objective='rmu'"),
        ({"forget_objective": "rmu", "rmu_layer": 0}, "rmu_layer=0"),
        ({"forget_objective": "rmu", "rmu_coefficient": 0.0}, "rmu_coefficient=0.0"),
        ({"forget_objective": "npo", "forget_loss_ceiling": 3.0}, "forget_loss_ceiling=3.0 bounds ascent"),
        ({"retain_objective": "kl", "reference_top_k": 0}, "reference_top_k=0"),
        ({"retain_objective": "distance"}, "retain_objective='distance' is not one of"),
    ],
)
def test_settings_of_another_objective(settings: dict, match: str, config) -> None:
    with pytest.raises(ValueError, match=match):
        config(**settings)


def test_retain_objectives_of_the_other_door(config) -> None:
    with pytest.raises(ValueError, match="retain_objective='distillation' is not for this door; use 'data' or 'kl'"):
        trainer_for(config, retain_objective="distillation")


# ---- The objective that is left open ----


def test_causal_language_models_have_another_default_than_the_papers(config) -> None:
    """By the model; and explicit arguments win."""
    ascends = {"forget_loss_ceiling": 1e9}
    assert trainer_for(config, forget=unanswered()).objective.name == "undial"
    assert trainer_for(config).forget_weight == 1.0 and trainer_for(config, forget_weight=0.3).forget_weight == 0.3
    assert trainer_for(config, **ascends).objective.name == "ascent"
    assert trainer_for(config, **ascends).forget_weight == 0.05
    assert trainer_for(config, forget_objective="npo").objective.name == "npo"
    assert trainer_for(config, recipe="svhn-class", forget_loss_ceiling=1e9).objective.name == "ascent"

    def own(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return outputs.logits.float().square().mean()

    assert trainer_for(config, compute_loss_func=own, forget_weight=0, projection=False).objective.name == "ascent"
    for other in (tiny_t5(), tiny_masked_bert()):
        assert trainer_for(config, other).objective.name == "ascent"
    model, retain, forget = retain_and_forget(tiny_models.tiny_bert)
    assert trainer_for(config, model, retain, forget, reinit_target_modules=None).objective.name == "ascent"


def test_a_run_by_the_default_says_which_objective_it_was(config) -> None:
    trainer = trainer_for(config, forget=unanswered())
    trainer.train()
    settings = trainer.report().settings
    assert (settings["forget_objective"], settings["forget_weight"], settings["objective_beta"]) == ("undial", 1.0, 10.0)


def test_other_answers_are_used_where_all_examples_have_them_and_nothing_is_said(config) -> None:
    usual, named = trainer_for(config, seed=3), trainer_for(config, seed=3, forget_objective="dpo")
    for trainer in (usual, named):
        trainer.train()
    assert usual.report().settings["forget_objective"] == "dpo"
    assert torch.equal(weights(usual), weights(named))
    assert trainer_for(config, forget_objective="simnpo").objective.name == "simnpo"

    whole = forget_set().with_format(None)
    some = Dataset.from_list([*whole.select(range(7)), {**whole[7], **dict.fromkeys(ANSWER_COLUMNS)}]).with_format("torch")
    misspelt = forget_set().rename_columns(
        dict(zip(ANSWER_COLUMNS, ("counterfactual_ids", "counterfactual_text"), strict=True))
    )
    for forget in (some, misspelt):
        with pytest.raises(ValueError, match="forget_dataset has counterfactual_.*say forget_objective='undial'"):
            trainer_for(config, forget=forget)
        assert trainer_for(config, forget=forget, forget_objective="undial").objective.name == "undial"
    listed = [dict(whole[index]) for index in range(8)]
    assert trainer_for(config, forget=listed).objective.name == "dpo"


# ---- Several processes ----


@pytest.mark.slow
def test_two_processes_take_the_step_of_all_their_examples(tmp_path: Path) -> None:
    """Of NPO at the original, where its gradient is that of ascent on the sum over an example's tokens, by torch alone."""
    run = Path(__file__).parents[1] / "distributed_step.py"
    settings = {"forget_objective": "npo", "retain_objective": "kl", "projection": False, "reference_top_k": 8}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(run), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, json.dumps(settings)], capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    model, forget = tiny_models.tiny_llama()[0], padded_text(8, 1).select(range(4))
    rows = forget[:]
    scores = model(input_ids=rows["input_ids"]).logits[:, :-1].log_softmax(-1)
    labels = rows["labels"][:, 1:]
    taken = scores.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    (0.3 * (taken * (labels != -100)).sum(1).mean()).backward()  # the divergence from itself has no gradient
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    for rank in (0, 1):
        step = load_file(tmp_path / f"rank-{rank}.safetensors")["step"]
        assert (step - expected).norm() <= 1e-5 * expected.norm()
