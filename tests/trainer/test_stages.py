"""What a run tells of itself: batches of the sensitivity, what was trimmed, steps and losses of repair."""

import pytest
import tiny_models
from tiny_data import retain_and_forget
from transformers import Trainer, TrainingArguments

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.trainer.run_progress import Reporter, RunProgress
from scissorhands_hf.trainer.stage_callback import StageCallback


def told(config, **settings) -> tuple[list[RunProgress], ScissorhandsTrainer]:
    model, retain, forget = retain_and_forget(tiny_models.tiny_resnet)
    seen: list[RunProgress] = []
    trainer = ScissorhandsTrainer(
        model=model,
        args=config(**settings),
        train_dataset=retain,
        forget_dataset=forget,
        callbacks=[StageCallback(Reporter(seen.append).tell)],
    )
    trainer.train()
    return seen, trainer


def test_sensitivity_counts_batches_and_ends_with_what_was_trimmed(config):
    seen, trainer = told(config, trim_ratio=0.2)
    sensitivity = [progress for progress in seen if progress.stage == "sensitivity"]
    assert [(progress.step, progress.total) for progress in sensitivity] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert sensitivity[-1].trimmed == trainer.trim_report["trimmed"] > 0
    assert sensitivity[-1].compared == trainer.trim_report["candidates"]
    assert all(progress.trimmed is None for progress in sensitivity[:-1])


def test_repair_counts_steps_and_ends_with_the_last_losses(config):
    seen, trainer = told(config, trim_ratio=0.2)
    repair = [progress for progress in seen if progress.stage == "repair"]
    assert [progress.step for progress in repair] == [1, 2, 3, 4, 5, 5] and {progress.total for progress in repair} == {5}
    last = [row for row in trainer.state.log_history if "retain_loss" in row][-1]
    assert (repair[-1].retain_loss, repair[-1].forget_loss) == (last["retain_loss"], last["forget_loss"])


def test_where_nothing_is_trimmed_sensitivity_is_over_at_once(config):
    seen, _ = told(config, trim_ratio=0)
    assert [(p.step, p.total, p.trimmed) for p in seen if p.stage == "sensitivity"] == [(1, 1, None)]


def test_what_the_callback_raises_ends_the_run(config):
    class EnoughError(Exception):
        pass

    def stop(progress: RunProgress) -> None:
        if progress.stage == "sensitivity":
            raise EnoughError

    model, retain, forget = retain_and_forget(tiny_models.tiny_resnet)
    callbacks = [StageCallback(Reporter(stop).tell)]
    trainer = ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=forget, callbacks=callbacks)
    with pytest.raises(EnoughError):
        trainer.train()


def test_a_stock_trainer_is_told_of_under_its_own_name(tmp_path):
    model, retain, _ = retain_and_forget(tiny_models.tiny_resnet)
    seen: list[RunProgress] = []
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True, report_to="none"
    )
    callback = StageCallback(Reporter(seen.append).tell, stage="training")
    Trainer(model=model, args=args, train_dataset=retain.remove_columns("id"), callbacks=[callback]).train()
    assert [(progress.stage, progress.step, progress.total) for progress in seen] == [("training", s, 2) for s in (1, 2, 2)]
