"""Private names of other libraries that the trainer and the algorithm still use; a version without one of them fails here.

Checked with transformers 5.23 and torch 2.13. Why each is used stands at its place.
"""

import inspect

import tiny_models
from tiny_data import retain_and_forget
from torch import nn
from transformers import PreTrainedModel, Trainer

from scissorhands_hf import ScissorhandsTrainer


def test_of_transformers(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    args = config(per_device_train_batch_size=4)
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    assert trainer._train_batch_size == 4  # trainer/scissorhands_trainer.py
    assert trainer._loss_shifts_labels is False  # trainer/batch_losses.py
    assert list(inspect.signature(Trainer.save_model).parameters) == ["self", "output_dir", "_internal_call"]  # the same
    assert list(inspect.signature(Trainer._load_best_model).parameters) == ["self"]  # the same
    assert list(inspect.signature(Trainer._load_from_checkpoint).parameters) == ["self", "resume_from_checkpoint", "model"]
    assert list(inspect.signature(PreTrainedModel._init_weights).parameters) == ["self", "module"]  # trainer/initializer.py


def test_of_torch() -> None:
    layer = nn.BatchNorm1d(2)  # core/trim.py
    assert layer._parameters.keys() == {"weight", "bias"}
    assert layer._buffers.keys() == {"running_mean", "running_var", "num_batches_tracked"}
    assert callable(nn.MultiheadAttention(2, 1)._reset_parameters)  # core/trim.py
