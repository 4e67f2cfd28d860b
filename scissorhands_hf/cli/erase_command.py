"""`scissorhands erase MODEL CONCEPT ... --output DIR`: a pipeline without the concept, and the report of what that did."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    UsageError,
    add_command,
    add_output_options,
    check_output,
    field_names,
    given_options,
    is_main_process,
    options_of,
    require,
)


if TYPE_CHECKING:
    from ..erasure import ErasureProgress

_SAMPLING = {"num_inference_steps": int, "guidance_scale": float, "height": int, "width": int}
_DTYPES = ("float32", "float16", "bfloat16")
_EPILOG = """\
Every further field of ConceptErasureConfig, so of transformers' TrainingArguments, is a flag as well (--learning_rate 1e-5).

  scissorhands erase me/my-pipeline dress --output no-dress --keep coat shirt
  scissorhands erase me/my-pipeline "in the style of Monet" --output out --config settings.yaml
  accelerate launch -m scissorhands_hf.cli erase me/my-pipeline dress --output no-dress
"""


def add_parser(subparsers: Any) -> None:
    from transformers import TrainingArguments

    from ..erasure import ConceptErasureConfig
    from ..trainer.recipes import TRAINING_FIELDS

    shown = {*TRAINING_FIELDS, "logging_steps", "seed", "max_steps"}
    options = options_of(
        ConceptErasureConfig, without={"output_dir", "applied_recipe"}, hidden=field_names(TrainingArguments) - shown
    )
    add, missing = options.add_argument, {"default": argparse.SUPPRESS}
    add_output_options(options, "the pipeline")
    add("--anchor", help="what the concept's prompts should show instead", **missing)
    add("--keep", nargs="+", metavar="CONCEPT", help="neighbours that matter most", **missing)
    add("--judge", metavar="MODEL", help="image classifier or CLIP model that counts the concept in pictures", **missing)
    add("--forget_images", "--forget-images", metavar="DIR", help="pictures of the concept, else drawn", **missing)
    add("--retain_images", "--retain-images", metavar="DIR", help="pictures of what is kept, else drawn", **missing)
    add("--report_images", "--report-images", type=int, metavar="N", help="pictures per prompt of the report", **missing)
    for name, kind in _SAMPLING.items():
        flags = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        add(*flags, type=kind, help="of the pictures drawn; default: the pipeline's", **missing)
    add("--dtype", choices=_DTYPES, help="to load the pipeline in; default: float32", **missing)
    add("--device", help="default: the first free accelerator, else the CPU", **missing)
    add("--revision", help="of the model on the Hub", **missing)
    parser = add_command(
        subparsers,
        "erase",
        options,
        usage="MODEL CONCEPT [CONCEPT ...] --output DIR [options]",
        help="remove concepts from a text-to-image pipeline",
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="Hub id or folder of a diffusers pipeline")
    parser.add_argument("concept", metavar="CONCEPT", nargs="+", help="what to erase, in words that prompts use")


def run(args: argparse.Namespace) -> None:
    given = given_options(args)
    require(given, ["output"])
    output = given.pop("output")
    check_output(output, given.pop("overwrite", False))
    sampling = {name: given.pop(name) for name in _SAMPLING if name in given}

    from ..erasure import enable_concept_erasure

    pipe = load_pipeline(
        given.pop("model"), given.pop("dtype", "float32"), given.pop("device", None), given.pop("revision", None)
    )
    report = enable_concept_erasure(pipe).erase_concept(given.pop("concept"), sampling=sampling, callback=StageLog(), **given)
    if not is_main_process():
        return
    pipe.save_pretrained(output)
    report.save(output)
    print(report.to_markdown())
    print(f"Saved to {output}")
    if report.pictures:
        try:
            report.plot(Path(output) / "report.png")
        except ImportError as error:  # the result is saved; only its picture needs a further package
            print(f"No picture of the report was drawn: {error}", file=sys.stderr)


def load_pipeline(model: str, dtype: str, device: str | None, revision: str | None) -> Any:
    """The pipeline, on the accelerator that belongs to this process, if there is one."""
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise UsageError("erasing needs diffusers: pip install 'scissorhands_hf[diffusion]'") from error
    import torch

    # diffusers below 0.42 knows this argument by this name alone; its own default is float32.
    kind = {} if dtype == "float32" else {"torch_dtype": getattr(torch, dtype)}
    pipe = DiffusionPipeline.from_pretrained(model, revision=revision, **kind)
    if device is None and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return pipe.to(device or "cpu")


class StageLog:
    """A callback of `erase_concept` that says which part of the work begins; the parts show their own bars."""

    def __init__(self) -> None:
        self._stage: str | None = None

    def __call__(self, progress: "ErasureProgress") -> None:
        if progress.stage != self._stage and is_main_process():
            print(f"Stage: {progress.stage}", file=sys.stderr)
        self._stage = progress.stage
