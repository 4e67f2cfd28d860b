"""The last looks before an upload: does it load as the model that was unlearned, and does it give away nothing private?

Converters have published the weights from before by mistake; a stale file beside the new one is enough. So what is about to be
uploaded is read by the stock library and compared. And no file may hold a token, a user name or a path of this machine.
"""

import getpass
import inspect
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants, get_token
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..core.modes import evaluation_mode
from .connection import UploadRefusedError
from .folder import FP16, component_folders, tensors, weight_digests
from .run import CardInfo


logger = logging.getLogger(__name__)

CHECKS = ("full", "weights")
# Weights are compared bit by bit; outputs may differ by what the order of additions in a kernel does.
_TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
_HOME_FOLDER = re.compile(rb"(/home/|/Users/|[A-Za-z]:\\+Users\\+)[\w.-]+")
# Accounts that identify nobody.
_SHARED_ACCOUNTS = {"root", "user", "ubuntu", "admin", "runner", "jovyan", "ec2-user", "nobody", "vscode", "docker"}
# In these, a short path can stand by chance or by right: weights, and the vocabulary of a tokenizer.
_OPAQUE = (".safetensors", "tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", ".model", ".spm", ".codes", ".png")
_OPAQUE_LENGTH = 12
_CHUNK = 1 << 24


def check_choice(check: str) -> None:
    if check not in CHECKS:
        raise ValueError(f"check={check!r} is not one of {', '.join(map(repr, CHECKS))}")


def check_loads(
    folder: Path, info: CardInfo, live: Any = None, check: str = "full", probe: Mapping[str, Any] | None = None
) -> None:
    """Load `folder` with the stock library and compare it with the `live` model or pipeline, if there is one; see
    [`check_transformers`] and [`check_diffusers`].

    Raises:
        UploadRefusedError: naming what differs.
    """
    if info.library == "diffusers":
        check_diffusers(folder, live, check, info.variant)
    else:
        check_transformers(folder, live, check, probe)
    if info.fp16_variant:
        check_fp16_copies(folder, info.library)


def check_transformers(
    folder: Path, model: nn.Module | None, check: str = "full", probe: Mapping[str, Any] | None = None
) -> None:
    """Load `folder` with stock transformers and compare it with the live model.

    Needs the memory of a second model on the CPU, and with `check="full"` on the model's device.

    Args:
        folder (`Path`):
            Holds config.json and safetensors.
        model (`nn.Module`, *optional*):
            The live model; None to check only that the folder loads, complete and finite.
        check (`str`, *optional*, defaults to `"full"`):
            "full" compares weights and outputs, "weights" the weights.
        probe (`Mapping[str, Any]`, *optional*):
            A batch to compare outputs on; by default one is made for pictures and text.

    Raises:
        UploadRefusedError: naming what differs.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = (config.get("architectures") or [None])[0]
    if config.get("auto_map"):
        raise UploadRefusedError(
            "config.json has auto_map: the model needs code of its own and does not load with stock transformers"
        )
    stock = getattr(transformers, architecture or "", None)
    if stock is None:
        raise UploadRefusedError(f"the model's class {architecture} is not in transformers, so stock code cannot load it")
    reloaded, loading = stock.from_pretrained(
        folder, dtype="auto", use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading.get(what):
            raise UploadRefusedError(
                f"{architecture}.from_pretrained finds {what.replace('_', ' ')}: {sorted(loading[what])[:3]}"
            )
    _compare_weights(model, reloaded, architecture)
    if model is None or check != "full":
        return
    probe = dict(probe) if probe else _probe(model)
    if probe is None:
        logger.info("No outputs were compared, only weights: no input can be made for %s", architecture)
        return
    outputs = []
    for candidate in (model, reloaded.to(next(model.parameters()).device)):
        with evaluation_mode(candidate), torch.no_grad():
            outputs.append(candidate(**probe))
    _compare_outputs(*outputs, architecture)


def check_diffusers(folder: Path, pipe: Any | None, check: str = "full", variant: str | None = None) -> None:
    """Load `folder` with stock diffusers and compare it with the live pipeline: class, weights, and for `check="full"` the
    latents after two steps from the same noise.

    Raises:
        UploadRefusedError: naming what differs.
    """
    import diffusers

    name = json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("_class_name")
    if not isinstance(name, str) or not hasattr(diffusers, name):
        raise UploadRefusedError(f"model_index.json names the class {name!r}, which stock diffusers does not have")
    modules = {} if pipe is None else {key: part for key, part in pipe.components.items() if isinstance(part, nn.Module)}
    types: dict[str, torch.dtype] = {key: part.dtype for key, part in modules.items() if hasattr(part, "dtype")}
    with warnings.catch_warnings():
        # diffusers 0.42 would have it called dtype, which 0.40 does not know.
        warnings.simplefilter("ignore", FutureWarning)
        reloaded = diffusers.DiffusionPipeline.from_pretrained(
            folder, torch_dtype={**types, "default": torch.float32} if types else None, variant=variant, local_files_only=True
        )
    if pipe is not None and type(reloaded).__name__ != stock_class(pipe).__name__:
        raise UploadRefusedError(f"the folder loads as {type(reloaded).__name__}, not as {stock_class(pipe).__name__}")
    for key, part in reloaded.components.items():
        if isinstance(part, nn.Module):
            _compare_weights(modules.get(key), part, key)
    missing = [key for key in modules if reloaded.components.get(key) is None]
    if missing:
        raise UploadRefusedError(f"the folder loads without the pipeline's {missing[0]}")
    if pipe is None or check != "full":
        return
    reloaded.to(pipe.device)
    reloaded.set_progress_bar_config(disable=True)
    _compare_outputs(_latents(pipe), _latents(reloaded), name)


def stock_class(pipe: Any) -> type:
    """The class of diffusers that a pipeline is one of, under whatever class of somebody else's.

    Raises:
        TypeError: no pipeline of diffusers.
    """
    import diffusers

    for cls in type(pipe).__mro__:
        found = getattr(diffusers, cls.__name__, None)
        if found is not None and (cls is found or found in cls.__mro__) and issubclass(found, diffusers.DiffusionPipeline):
            return found
    raise TypeError(f"{type(pipe).__name__} is not a pipeline of diffusers")


def check_fp16_copies(folder: Path, library: str) -> None:
    """Every half-precision copy is the rounded weight.

    Raises:
        UploadRefusedError: a copy is missing or another.
    """
    for name, part in component_folders(folder, library).items():
        copies = dict(tensors(part, FP16))
        for key, tensor in tensors(part):
            half = tensor.to(torch.float16) if tensor.is_floating_point() else tensor
            if key not in copies or not torch.equal(copies[key], half):
                raise UploadRefusedError(f"the fp16 copy of {name or 'the model'} does not hold the weight {key!r}")


def check_digests(folder: Path, library: str, expected: Mapping[str, str], variant: str | None = None) -> None:
    """The weights are those that were saved when the report was written.

    Raises:
        UploadRefusedError: they are others.
    """
    for name, digest in weight_digests(folder, library, variant).items():
        if name in expected and expected[name] != digest:
            raise UploadRefusedError(
                f"the weights of {name or 'the model'} are not those that the report was written for: they were saved again or "
                "replaced. Save with trainer.save_model() or pipe.save_pretrained(), or, if this is meant, accept them with "
                "`scissorhands card DIR --accept_weights`."
            )


def _compare_weights(live: nn.Module | None, reloaded: nn.Module, name: str) -> None:
    if live is not None:
        ours, theirs = live.state_dict(), reloaded.state_dict()
        if ours.keys() != theirs.keys():
            difference = sorted(ours.keys() ^ theirs.keys())[:3]
            raise UploadRefusedError(f"{name}: the reloaded model has other weights than the live one: {difference}")
    for key, tensor in reloaded.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UploadRefusedError(f"{name}: the saved weight {key!r} is not finite")
        if live is not None and not torch.equal(ours[key].detach().cpu().to(tensor.dtype), tensor.cpu()):
            raise UploadRefusedError(
                f"{name}: the saved weight {key!r} is not the live model's. Save it again; an older file may lie beside it."
            )


def _compare_outputs(live: Any, reloaded: Any, name: str) -> None:
    for index, (ours, theirs) in enumerate(zip(_leaves(live), _leaves(reloaded), strict=True)):
        if ours.shape != theirs.shape or not torch.allclose(ours.float(), theirs.float(), **_TOLERANCE, equal_nan=True):
            raise UploadRefusedError(
                f"{name}: output {index} of the reloaded model differs from the live one's at the same input"
            )


def _leaves(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else ()
    return [leaf for value in values for leaf in _leaves(value)]


def _probe(model: nn.Module) -> dict[str, Tensor] | None:
    """One small input for a model of pictures or text, the same every time; None for others."""
    config = getattr(model, "config", None)
    if not isinstance(model, PreTrainedModel) or config is None:
        return None
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        side = getattr(config, "image_size", None) or 64
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        pixels = torch.randn(1, getattr(config, "num_channels", 3), height, width, generator=generator)
        return {"pixel_values": pixels.to(device, next(model.parameters()).dtype)}
    if model.main_input_name == "input_ids" and not getattr(config, "is_encoder_decoder", False):
        return {"input_ids": torch.randint(0, config.vocab_size, (1, 8), generator=generator).to(device)}
    return None


def _latents(pipe: Any) -> Tensor:
    """Two steps of a small picture, as latents, from a fixed noise."""
    accepted = inspect.signature(type(pipe).__call__).parameters
    side = 16 * getattr(pipe, "vae_scale_factor", 8)
    arguments = {
        "prompt": "a photo",
        "num_inference_steps": 2,
        "height": side,
        "width": side,
        "output_type": "latent",
        "use_resolution_binning": False,
        "generator": torch.Generator().manual_seed(0),
    }
    return pipe(**{key: value for key, value in arguments.items() if key in accepted}).images


def secrets(tokens: Iterable[str | None] = (), paths: Iterable[str | os.PathLike | None] = ()) -> dict[bytes, str]:
    """What must not be in any file, with what to call it in an error: tokens, home, working and cache folders, given paths."""
    found: dict[bytes, str] = {}
    for token in (*tokens, get_token()):
        if isinstance(token, str) and len(token) >= 8:
            found[token.encode()] = "an access token"
    here = [Path.home(), Path.cwd(), tempfile.gettempdir(), constants.HF_HOME, *(path for path in paths if path)]
    for path in here:
        text = os.path.abspath(path)
        if len(Path(text).parts) > 1:
            found[text.encode()] = "a path of this machine"
    return found


def check_private(folder: Path, names: Iterable[str], needles: Mapping[bytes, str]) -> None:
    """Look through every byte of the files.

    Raises:
        UploadRefusedError: naming the first file with a secret in it, and not the secret.
    """
    for name in names:
        for block in _blocks(folder / name, max(map(len, needles), default=1)):
            check_bytes(name, block, needles)


def check_bytes(name: str, block: bytes, needles: Mapping[bytes, str]) -> None:
    """The same for what is, or will be, in a file of this name."""
    opaque = name.endswith(_OPAQUE)
    found = [
        what for needle, what in needles.items() if (not opaque or len(needle) >= _OPAQUE_LENGTH) and _holds(block, needle)
    ]
    if not opaque:
        found += ["an access token"] if _TOKEN.search(block) else []
        found += ["a path of this machine"] if _HOME_FOLDER.search(block) else []
    if found:
        raise UploadRefusedError(
            f"{name} holds {found[0]} and is not uploaded. Take it out of the file, or save the model again."
        )


def check_texts(values: Any, account: str | None = None) -> None:
    """Look for this machine's user name among the texts that users wrote: notes, names, descriptions.

    Raises:
        UploadRefusedError: with the text that holds it.
    """
    account = account or account_name()
    if account is None or len(account) < 3 or account.lower() in _SHARED_ACCOUNTS:
        return
    for text in strings(values):
        if re.search(rf"(?<![\w/-]){re.escape(account)}(?![\w/-])", text, re.IGNORECASE):
            raise UploadRefusedError(f"a text that would be published holds the name of your account: {text!r}. Reword it.")


def account_name() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without an entry for its user
        return None


def _holds(block: bytes, needle: bytes) -> bool:
    """Whether the block has the needle by itself, not as a part of a longer name or address."""
    start = block.find(needle)
    while start >= 0:
        before, after = block[start - 1 : start] if start else b"", block[start + len(needle) : start + len(needle) + 1]
        if not (before.isalnum() or after.isalnum() or after in (b"_", b"-")):
            return True
        start = block.find(needle, start + 1)
    return False


def _blocks(path: Path, overlap: int) -> Iterator[bytes]:
    """The file in blocks that overlap, so that nothing hides on a border."""
    with path.open("rb") as file:
        tail = b""
        while chunk := file.read(_CHUNK):
            yield tail + chunk
            tail = chunk[-overlap:]


def strings(values: Any) -> Iterator[str]:
    """All texts in nested lists and dictionaries, keys among them."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict):
        for key, value in values.items():
            yield from strings(key)
            yield from strings(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from strings(value)
