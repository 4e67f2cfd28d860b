"""`scissorhands erase MODEL CONCEPT ... --output DIR`: a pipeline without the concept, and the report of what that did."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ..erasure.erasure_settings import CONCEPT_TYPES, ErasureSettings
from ..trainer.unlearning_settings import UnlearningSettings
from .model_run import add_command, model_run
from .options import UsageError, add_option, take
from .terminal import is_main_process


_SAMPLING = {"num_inference_steps": int, "guidance_scale": float, "height": int, "width": int}
_LOADING = ("model", "dtype", "device", "revision")
_EXAMPLES = """\
  scissorhands erase me/my-pipeline dress --output no-dress --keep coat shirt
  scissorhands erase me/my-pipeline "in the style of Monet" --output out --config settings.yaml
  accelerate launch -m scissorhands_hf.cli erase me/my-pipeline dress --output no-dress
"""


def _add_own(options: argparse.ArgumentParser) -> None:
    add_option(options, "anchor", str, "what the concept's prompts should show instead")
    add_option(
        options,
        "concept_type",
        list[str],
        "what is erased, one for all concepts or one for each; default: as the model reads the name",
        choices=CONCEPT_TYPES,
    )
    add_option(options, "keep", list[str], "neighbours that matter most", metavar="CONCEPT")
    add_option(options, "judge", str, "image classifier or CLIP model that counts the concept in pictures", metavar="MODEL")
    add_option(options, "forget_images", str, "pictures of the concept, else drawn", metavar="DIR")
    add_option(options, "retain_images", str, "pictures of what is kept, else drawn", metavar="DIR")
    add_option(
        options, "report_images", int, "pictures per prompt of the report; default: 8, fewer with many concepts", metavar="N"
    )
    add_option(options, "dry_run", bool, "only say what it would need of memory, disk and pictures; no --output needed")
    for name, kind in _SAMPLING.items():
        add_option(options, name, kind, "of the pictures drawn; default: the pipeline's")
    dtypes = ("float32", "float16", "bfloat16")
    add_option(options, "dtype", str, "to load the pipeline in; default: float32", choices=dtypes)
    add_option(options, "device", str, "default: the first free accelerator, else the CPU")
    add_option(options, "revision", str, "of the model on the Hub")


def add_parser(subparsers: Any) -> None:
    def configuration() -> type:
        from ..erasure import ConceptErasureConfig

        return ConceptErasureConfig

    parser = add_command(
        subparsers,
        "erase",
        usage="MODEL CONCEPT [CONCEPT ...] --output DIR [options]",
        help="remove concepts from a text-to-image pipeline",
        examples=_EXAMPLES,
        output="the pipeline",
        add_own=_add_own,
        settings=(ErasureSettings, UnlearningSettings),
        recipe="What is not given is taken from the recipe, which, of small denoisers, is 'removal', else as said.",
        configuration=configuration,
    )
    parser.add_argument("model", metavar="MODEL", help="Hub id or folder of a diffusers pipeline")
    parser.add_argument("concept", metavar="CONCEPT", nargs="+", help="what to erase, in words that prompts use")


def run(args: argparse.Namespace) -> None:
    with model_run(args, libraries=["diffusers"] if _has_diffusers() else []) as command:
        given, terminal, output = command.given, command.terminal, command.output
        loading, sampling = take(given, _LOADING), take(given, _SAMPLING)
        from ..erasure import enable_concept_erasure

        with terminal.stage("load"):
            pipe = load_pipeline(**loading)
        if len(given.get("concept_type", ())) == 1:
            (given["concept_type"],) = given["concept_type"]
        report = enable_concept_erasure(pipe).erase_concept(
            given.pop("concept"), sampling=sampling, callback=terminal.tell, **given
        )
        if given.get("dry_run"):
            if is_main_process():
                terminal.say(f"{report}. {report.drawn:,} pictures to draw, {report.steps:,} steps.")
            return
        if not is_main_process():
            return
        pipe.save_pretrained(output, **command.card)
        report.save(output)
        command.conclude(report)
        if report.pictures:
            try:
                report.plot(Path(output) / "report.png")
            except ImportError as error:  # the result is saved; only its picture needs a further package
                print(f"No picture of the report was drawn: {error}", file=sys.stderr)


def _has_diffusers() -> bool:
    try:
        import diffusers  # noqa: F401
    except ImportError:
        return False
    return True


def load_pipeline(model: str, dtype: str = "float32", device: str | None = None, revision: str | None = None) -> Any:
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
