"""Reading a checkpoint's weights back into the live model: all of them, exactly, or an error that names what does not fit.

Trainer's own reading passes the file's names to `load_state_dict(strict=False)`. But `save_pretrained` writes many
architectures under other names, or in other pieces, than the live model has; those weights would silently stay as they are.
"""

import copy
import json
from collections.abc import Iterable
from functools import reduce
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME


def load_saved_weights(model: nn.Module, folder: Path) -> None:
    """
    Give `model`, in place, the weights and buffers that were saved in `folder`.

    Weights are read one by one where each is in the file as it is in the model, whatever its name there; else, where
    `save_pretrained` cuts or joins weights (experts of mixtures), through a second model on the CPU.

    Args:
        model (`nn.Module`):
            Not wrapped. Its kind, its sizes and dtypes are those of the model that was saved.
        folder (`Path`):
            A checkpoint, with one file of safetensors or several with an index.

    Raises:
        ValueError: the folder holds no safetensors weights; or names, shapes or dtypes are not those that this model would be
            saved with. Nothing has been changed then.
    """
    files = _file_of_each_weight(folder)
    live = dict(model.state_dict())
    # Stand-ins on "meta": what is renamed is known again by identity, and what is cut or joined costs no memory.
    stand_ins = {name: torch.empty_like(tensor, device="meta") for name, tensor in live.items()}
    saved = dict(stand_ins)
    if isinstance(model, PreTrainedModel):
        # Public by name, though not in the documentation (transformers 5.23): the very function by which weights are saved.
        saved = revert_weight_conversion(model, saved)
    live_names = {id(tensor): name for name, tensor in stand_ins.items()}
    sources = {name: live_names.get(id(tensor)) for name, tensor in saved.items()}

    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    found = [source for name, source in sources.items() if name in files]
    spared = ignored | _tied_to(found, live)
    missing = [name for name, source in sources.items() if name not in files and source not in spared]
    _refuse(folder, "lacks weights of the model", missing)
    _refuse(folder, "holds weights that the model does not have", [name for name in files if name not in saved])
    _refuse(folder, "holds weights of another kind", _misfits(files, saved))

    if all(source is not None for source in sources.values()):
        with torch.no_grad():
            for name, tensor in _read(files):
                live[sources[name]].copy_(tensor)
    else:
        _load_through_another_model(model, folder, live, ignored)


def _file_of_each_weight(folder: Path) -> dict[str, Path]:
    """The weights in a checkpoint by name, each with its file."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        paths = [folder / SAFE_WEIGHTS_NAME]
    elif index.is_file():
        paths = sorted({folder / file for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    else:
        raise ValueError(
            f"{str(folder)!r} holds neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME}: it is no checkpoint of a whole "
            "model (that of a PEFT model holds its adapter alone), or was not written to its end"
        )
    files = {}
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{str(folder)!r} lacks {path.name}, which its {index.name} names")
        with safetensors.safe_open(path, framework="pt") as opened:
            files.update(dict.fromkeys(opened.keys(), path))
    return files


def _read(files: dict[str, Path]) -> Iterable[tuple[str, Tensor]]:
    """Name and tensor, one in memory at a time."""
    for path in dict.fromkeys(files.values()):
        with safetensors.safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no dict)
                yield name, opened.get_tensor(name)


def _tied_to(names: Iterable[str | None], live: dict[str, Tensor]) -> set[str]:
    """Names of tensors that lie in the same memory, in the same form, as one of those named."""

    def place(tensor: Tensor) -> tuple:
        return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride()

    places = {place(live[name]) for name in names if name is not None}
    return {name for name, tensor in live.items() if tensor.numel() and place(tensor) in places}


def _misfits(files: dict[str, Path], saved: dict[str, Tensor]) -> list[str]:
    """What has another shape in the file, or a dtype whose values the model's cannot all hold."""
    misfits = []
    for path in dict.fromkeys(files.values()):
        with safetensors.safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no dict)
                wanted, part = saved[name], opened.get_slice(name)
                shape = tuple(part.get_shape())
                if shape != tuple(wanted.shape):
                    misfits.append(f"{name} {shape} for {tuple(wanted.shape)}")
                    continue
                dtype = (part[:0] if shape else opened.get_tensor(name)).dtype
                if torch.promote_types(dtype, wanted.dtype) != wanted.dtype:
                    misfits.append(f"{name} {dtype} for {wanted.dtype}")
    return misfits


def _load_through_another_model(model: PreTrainedModel, folder: Path, live: dict[str, Tensor], ignored: set[str]) -> None:
    """Let transformers cut and join weights on the CPU; they need as much memory as Trainer's own reading."""
    # The widest dtype in the model: nothing is rounded on the way.
    floating = [tensor.dtype for tensor in live.values() if tensor.is_floating_point()]
    # The live model's settings, for they say which modules it has; copied, as from_pretrained writes into them.
    other, found = type(model).from_pretrained(
        folder,
        config=copy.deepcopy(model.config),
        dtype=reduce(torch.promote_types, floating),
        use_safetensors=True,
        output_loading_info=True,
    )
    loaded = {name: tensor for name, tensor in other.state_dict().items() if name not in found["missing_keys"]}
    absent = set(live) - set(loaded) - ignored - _tied_to(loaded.keys() & live.keys(), live)
    _refuse(folder, "could not be read: no value for", sorted(absent))
    _refuse(folder, "could not be read: no place for", sorted([*found["unexpected_keys"], *(set(loaded) - set(live))]))
    _refuse(folder, "could not be read: other shapes of", [str(key) for key in found["mismatched_keys"]])
    with torch.no_grad():
        for name, tensor in loaded.items():
            if name not in ignored:
                live[name].copy_(tensor)


def _refuse(folder: Path, what: str, names: list[str]) -> None:
    if names:
        rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise ValueError(
            f"the checkpoint {str(folder)!r} {what}: {', '.join(names[:8])}{rest}. Load it into a model of the kind and size "
            "that it was saved from."
        )
