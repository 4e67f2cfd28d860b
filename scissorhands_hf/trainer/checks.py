"""What a run needs, checked before any weight is touched. Each error names the argument, its value and the way out."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, is_compiled_module
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import has_length

from ..core.sensitivity import is_finite
from .field_checks import require, require_not_negative
from .forget_choice import TRAINER_OBJECTIVES
from .scissorhands_config import ScissorhandsConfig
from .weight_states import adapters, dequantised, meta_weight, quantisation, sharded_weight


logger = logging.getLogger(__name__)

ID_COLUMNS = ("id", "ids", "example_id", "uid")


def check_arguments(args: TrainingArguments | None, objectives: Sequence[str], retain_objectives: Sequence[str]) -> None:
    """Reject settings under which the method would not compute what it says."""
    if not isinstance(args, ScissorhandsConfig):
        raise TypeError(
            f"args is a {type(args).__name__}; ScissorhandsTrainer needs a ScissorhandsConfig, which accepts everything that "
            "TrainingArguments accepts: ScissorhandsConfig(output_dir=...)"
        )
    if args.fp16:
        raise ValueError(
            "fp16=True trains with a gradient scaler, so gradients are still scaled where they are projected. "
            "Use bf16=True, or neither."
        )
    if args.deepspeed:
        raise ValueError(
            "deepspeed is set, and DeepSpeed steps the optimizer inside backward, before the gradient can be projected. "
            "Use DistributedDataParallel (accelerate launch --multi_gpu)."
        )
    if args.fsdp:
        raise ValueError(
            f"fsdp={args.fsdp!r} is not supported: sharded gradients cannot be matched with the weights to trim. "
            "Use DistributedDataParallel (accelerate launch --multi_gpu)."
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process would train with nn.DataParallel, which splits paired batches wrongly. Start "
            "one process per GPU with `accelerate launch` or `torchrun`, or show one GPU with CUDA_VISIBLE_DEVICES."
        )
    if args.forget_objective not in (None, *objectives):
        needs = "a diffusion pipeline's prompts and frozen original"
        if args.forget_objective in TRAINER_OBJECTIVES:
            needs = "batches with labels, which ScissorhandsTrainer is given"
        known = ", ".join(map(repr, objectives))
        raise ValueError(f"forget_objective={args.forget_objective!r} needs {needs}; use one of {known}")
    if args.retain_objective not in retain_objectives:
        raise ValueError(
            f"retain_objective={args.retain_objective!r} is not for this door; use {' or '.join(map(repr, retain_objectives))}"
        )
    if args.train_sampling_strategy != "random":
        raise ValueError(
            f"train_sampling_strategy={args.train_sampling_strategy!r} is not supported: retain and forget examples are "
            "drawn in pairs, at random. Use 'random'."
        )
    for name in ("split_batches", "dispatch_batches"):
        if getattr(args.accelerator_config, name):
            raise ValueError(
                f"accelerator_config.{name}=True would cut paired batches apart; leave it False: every process draws its own"
            )
    args.check_hub_strategy()  # again: `args.set_push_to_hub` does not


def check_optimizer(args: TrainingArguments, model: nn.Module) -> None:
    """
    Find out whether Trainer will be able to make its optimizer, which it tries when all else is done.

    Raises:
        ImportError: the optimizer's package is missing.
        ValueError: the optimizer needs further settings, or is given numbers that it cannot step by.
    """
    require_not_negative(args, "learning_rate", "weight_decay", "adam_epsilon")
    for beta in ("adam_beta1", "adam_beta2"):
        require(args, beta, 0 <= getattr(args, beta) < 1, "must lie in [0, 1), as 0.9")
    # Infinite is a norm that is looked at and never cut.
    require(
        args, "max_grad_norm", args.max_grad_norm is None or args.max_grad_norm >= 0, "must be a number >= 0; 0 for no clipping"
    )
    name = getattr(args.optim, "value", args.optim)
    try:
        Trainer.get_optimizer_cls_and_kwargs(args, model)
    except ImportError as error:
        raise ImportError(f"optim={name!r} needs a package that is missing. {error}") from error
    except ValueError as error:
        raise ValueError(f"optim={name!r} cannot be made. {error}") from error


def check_distributed(accelerator: Accelerator) -> None:
    """Reject launchers' own plugins (`accelerate launch --use_deepspeed`, `--use_fsdp`), which no argument shows."""
    kind = accelerator.distributed_type
    if kind in (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM, DistributedType.XLA):
        raise ValueError(
            f"the launcher chose {kind.value}, under which gradients cannot be projected before the optimizer's step. "
            "Launch with plain data parallelism: accelerate launch --multi_gpu; on CPUs torchrun --nproc_per_node N, of which "
            "accelerate launch --cpu would start one process."
        )


def check_model(model: nn.Module, own_adapter: bool = False) -> None:
    """Reject weights that cannot be trimmed: sharded, quantised, frozen under an adapter that is not the door's own, or not
    finite."""
    if (name := sharded_weight(model)) is not None:
        raise ValueError(
            f"the weight {name!r} is sharded over processes (a DTensor); load the model without distributed_config or "
            "fully_shard, and use DistributedDataParallel"
        )
    if (name := meta_weight(model)) is not None:
        raise ValueError(f"the weight {name!r} has no memory (device 'meta'); load the model without offloading")
    if dequantised(model):
        raise ValueError(
            "the model was read from a GGUF file: its weights are floats, but transformers still takes it for quantised and "
            "would refuse to save it when the run is over. Make a plain model of it first: `del "
            "model.config.quantization_config`, then plain = AutoModelForCausalLM.from_config(model.config, "
            "dtype=torch.float32), plain.load_state_dict(model.state_dict()), and plain.save_pretrained(...) keeps it."
        )
    if (kind := quantisation(model)) is not None:
        raise ValueError(
            f"the model's weights are quantised ({kind}) and cannot be re-initialised one by one. Load it without "
            "quantization_config."
        )
    if (
        not own_adapter
        and adapters(model) is not None
        and not all(
            p.requires_grad for name, p in model.named_parameters() if "lora_" not in name and "modules_to_save" not in name
        )
    ):
        raise ValueError(
            "the model is a PEFT model with a frozen base: what it must forget lies in weights that would not change, and an "
            "adapter can be switched off. Merge it first (model = model.merge_and_unload()) and unlearn the merged model."
        )
    if not own_adapter and adapters(model) is not None:
        raise ValueError(
            "the model is a PEFT model with a trainable base, whose checkpoints hold the adapter alone: what was changed in "
            "the base would be lost. Merge it first (model = model.merge_and_unload()) and unlearn the merged model."
        )
    if is_compiled_module(model):
        raise ValueError(
            "the model is compiled, and its checkpoints would have names that from_pretrained does not know. Give the model "
            "as it was before (model._orig_mod) and set torch_compile=True."
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("no weight of the model requires gradients; call model.requires_grad_(True) on what may change")
    for name, parameter in model.named_parameters():
        if not is_finite(parameter.detach()):
            raise ValueError(f"the weight {name!r} contains NaN or infinity; load an intact checkpoint")


def check_precision(model: nn.Module, trained: Sequence[str]) -> None:
    """Reject trained weights in half precision: an update that is small beside its weight is rounded away.

    Args:
        model (`nn.Module`):
            Of the run.
        trained (`Sequence[str]`):
            Names of the weights that the run changes; the others may have any dtype.
    """
    for name in trained:
        dtype = model.get_parameter(name).dtype
        if dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"the weight {name!r} is {str(dtype).removeprefix('torch.')} and is to be trained: steps below "
                f"{100 * torch.finfo(dtype).eps / 2:.2g} % of a weight would be rounded away. Load the model with "
                "dtype=torch.float32, or call model.float(); bf16=True computes in bfloat16 all the same. Where memory is "
                "short, name what is trained in trainable_target_modules, and make that alone float32 (with bf16=True)."
            )


def check_datasets(retain: Any, forget: Any) -> None:
    """Reject missing, empty, length-less and identical sets; warn of examples in both, where both carry ids."""
    for argument, dataset, meaning in (
        ("forget_dataset", forget, "what the model must forget"),
        ("train_dataset", retain, "the retain set, what it must keep"),
    ):
        if dataset is None:
            raise ValueError(f"{argument}=None: give {meaning}")
        if isinstance(dataset, IterableDataset) or not has_length(dataset):
            raise ValueError(
                f"{argument} is a {type(dataset).__name__} without a length; paired batches that a resumed run meets again "
                "need a map-style dataset (for `datasets`: load without streaming=True). Test sets may be iterable."
            )
        if len(dataset) == 0:
            raise ValueError(f"{argument} is empty: give {meaning}")
    if retain is forget:
        raise ValueError("train_dataset and forget_dataset are the same object; take the forget examples out of the retain set")

    for column in ID_COLUMNS:
        ids = [_column(dataset, column) for dataset in (retain, forget)]
        if ids[0] is not None and ids[1] is not None:
            shared = len(set(ids[0]) & set(ids[1]))
            if shared:
                logger.warning(
                    "%d of %d forget examples are also in the retain set (same %r): repair will teach them again. Take them "
                    "out of train_dataset.",
                    shared,
                    len(forget),
                    column,
                )
            return


def check_labels(argument: str, dataset: Any, model: nn.Module) -> None:
    """Reject class labels outside `range(num_labels)`, where the dataset has a plain column of them."""
    for column in ("labels", "label", "label_ids"):
        values = _column(dataset, column)
        if values and isinstance(values[0], int):
            _check_classes(f"{argument}: the column {column!r} holds", values, model)
            return


def check_batch_labels(argument: str, batch: Mapping[str, Any], model: nn.Module) -> None:
    """The same for the examples of one batch, of data sets that have no such column."""
    labels = batch.get("labels")
    if isinstance(labels, Tensor) and labels.ndim == 1 and not labels.is_floating_point():
        # Examples with the label -100 count for nothing.
        _check_classes(f"{argument} gives", [label for label in labels.tolist() if label != -100], model)


def _check_classes(holder: str, labels: Iterable[int], model: nn.Module) -> None:
    config = getattr(model, "config", None)
    classes = getattr(config, "num_labels", None)
    if classes is None or classes < 2 or getattr(config, "problem_type", None) not in (None, "single_label_classification"):
        return
    if not type(model).__name__.endswith(("ForImageClassification", "ForSequenceClassification", "ForAudioClassification")):
        return
    wrong = sorted({label for label in labels if not 0 <= label < classes})
    if wrong:
        raise ValueError(
            f"{holder} labels {wrong[:5]} outside 0 … {classes - 1}; the model has num_labels={classes}. Map the labels, or "
            "load the model with the right num_labels."
        )


def check_loss(argument: str, loss: Any) -> None:
    """Reject what is not one finite number."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"the model returned {got} where its loss should be: it must return a scalar loss as its 'loss' or first output "
            "when a batch holds labels. Give the batches labels, the model a head, or the trainer a compute_loss_func."
        )
    if not torch.isfinite(loss):
        raise ValueError(f"the loss on examples of {argument} is {loss.item()}; look at their values, labels and padding")


def check_ceiling(ceiling: float, first: float, chosen: bool) -> None:
    """Warn, or where the user chose it refuse, a ceiling that the forget loss has reached before anything is forgotten."""
    if not first >= ceiling:
        return
    message = (
        f"forget_loss_ceiling={ceiling:.4g}, and the forget loss is {first:.4g} to begin with: nothing will ascend. Give "
        "a higher forget_loss_ceiling, or float('inf') for none; or has the model forgotten already?"
    )
    if chosen:
        raise ValueError(message)
    logger.warning(message)


def _column(dataset: Any, name: str) -> list | None:
    """A column of a `datasets.Dataset` (read without decoding the others), else None."""
    if name not in (getattr(dataset, "column_names", None) or ()):
        return None
    return list(dataset.with_format(None)[name])
