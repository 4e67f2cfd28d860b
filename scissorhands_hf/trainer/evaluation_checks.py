"""What evaluations in the course of a run need, checked before it: they come when weights have been changed."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from .scissorhands_config import ScissorhandsConfig


# What Trainer adds to the figures of every evaluation set, with or without a compute_metrics.
_ALWAYS = ("loss", "runtime", "samples_per_second", "steps_per_second")


def check_best_metric(args: ScissorhandsConfig, eval_dataset: Any, compute_metrics: Callable[..., Any] | None) -> None:
    """
    Reject a `metric_for_best_model` that no evaluation set can have.

    Args:
        args (`ScissorhandsConfig`):
            Of the run.
        eval_dataset (`Any`):
            Of the trainer; of a dict each set's figures begin with its name.
        compute_metrics (`Callable`, *optional*):
            Of the trainer; without it the loss is the only figure.

    Raises:
        ValueError: naming the sets and a metric that they have.
    """
    if args.metric_for_best_model is None or args.eval_strategy == IntervalStrategy.NO:
        return
    metric = args.metric_for_best_model.removeprefix("eval_")
    said = f"metric_for_best_model={args.metric_for_best_model!r}"
    figure = metric
    if isinstance(eval_dataset, dict):
        names = [name for name in eval_dataset if metric.startswith(f"{name}_") and metric != f"{name}_"]
        if not names:
            example = f"eval_{next(iter(eval_dataset), 'test')}_{metric}"
            raise ValueError(
                f"{said} is a figure of none of the evaluation sets ({', '.join(map(str, eval_dataset)) or 'there are none'}): "
                f"where eval_dataset is a dict, each figure has its set's name before it, as {example!r}"
            )
        figure = metric.removeprefix(f"{max(names, key=len)}_")
    if compute_metrics is None and figure not in _ALWAYS:
        raise ValueError(
            f"{said} needs a compute_metrics that gives {figure!r}; without one the loss is all that is measured: "
            f"{'eval_' + metric.removesuffix(figure) + 'loss'!r}"
        )


def check_early_stopping(args: ScissorhandsConfig, callbacks: Iterable[TrainerCallback]) -> None:
    """Reject an `EarlyStoppingCallback` that has no figure to go by, which it would say itself when weights are trimmed.

    Raises:
        ValueError: naming the argument that it lacks.
    """
    if not any(isinstance(callback, EarlyStoppingCallback) for callback in callbacks):
        return
    if args.metric_for_best_model is None:
        raise ValueError(
            "an EarlyStoppingCallback needs metric_for_best_model, the figure that it watches: for example 'eval_loss', or "
            "'eval_retain_loss' of an evaluation set called 'retain'"
        )
    if args.eval_strategy == IntervalStrategy.NO:
        raise ValueError("an EarlyStoppingCallback needs evaluations: eval_strategy='epoch' or 'steps', and an eval_dataset")


def check_collected_logits(
    model: nn.Module, compute_metrics: Callable[..., Any] | None, preprocess: Callable[..., Any] | None
) -> None:
    """
    Refuse to collect, for `compute_metrics`, the logits of a whole vocabulary for every token of an evaluation set: 400 answers
    of 50 tokens are 4 GB by a vocabulary of 49,152. Without a `compute_metrics`, evaluations keep nothing but the loss.

    Args:
        model (`nn.Module`):
            Of the trainer.
        compute_metrics, preprocess (`Callable`, *optional*):
            Of the trainer; the second is its `preprocess_logits_for_metrics`.

    Raises:
        ValueError: naming what to give.
    """
    if compute_metrics is None or preprocess is not None:
        return
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    last = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if last is None:
        return
    raise ValueError(
        f"compute_metrics of {type(inner).__name__} needs a preprocess_logits_for_metrics: without one the logits of all "
        f"{last.weight.shape[0]:,} entries of its vocabulary are collected for every token of an evaluation set. Give "
        "preprocess_logits_for_metrics=scissorhands_hf.trainer.likeliest_tokens to be handed token ids (compare "
        "predictions[:, :-1] with label_ids[:, 1:]), or a function of your own that keeps what is needed"
    )


def likeliest_tokens(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """
    For `preprocess_logits_for_metrics`: of logits the likeliest token at each place, which is all that accuracies need.

    Args:
        logits (`Tensor` or `tuple[Tensor, ...]`):
            Of shape (examples, tokens, vocabulary); of several outputs the first.
        labels (`Tensor`):
            Not used.

    Returns:
        `Tensor`: int64 of shape (examples, tokens).
    """
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)
