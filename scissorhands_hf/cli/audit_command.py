"""`scissorhands audit MODEL ... --output DIR`: what a model still knows of what it was made to forget."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .erase_command import load_pipeline
from .model_run import check_output
from .options import CommandParser, UsageError, add_common_options, add_option, given_options, take
from .terminal import Terminal


_SAMPLING = {"num_inference_steps": int, "guidance_scale": float, "height": int, "width": int}
_LOADING = ("dtype", "device", "revision")
_EXAMPLES = """\
  scissorhands audit out/no-dress --concept dress --judge me/my-judge --reference me/my-pipeline --output out/audit
  scissorhands audit out/no-dress --concept dress --judge me/my-judge --pictures dresses --probes words token --output out
"""


def add_parser(subparsers: Any) -> None:
    options = CommandParser(usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    add_option(options, "output", str, "folder for the report; required", metavar="DIR")
    add_option(options, "overwrite", bool, "write into a folder that is not empty")
    add_option(options, "config", str, "YAML file of options by name; flags override it", metavar="FILE")
    add_option(options, "seed", int, "of everything that is drawn or learned; default: 0")
    _add_pipeline_options(options.add_argument_group("a text-to-image pipeline"))
    add_option(options, "dtype", str, "to load in; default: float32", choices=("float32", "float16", "bfloat16"))
    add_option(options, "device", str, "default: the first free accelerator, else the CPU")
    add_option(options, "revision", str, "of the model on the Hub")
    parser = subparsers.add_parser(
        "audit", parents=[options], usage="scissorhands audit MODEL --output DIR [options]", allow_abbrev=False,
        help="probe a model for what it was made to forget", description="probe a model for what it was made to forget",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="Hub id or folder of a diffusers pipeline")
    add_common_options(parser)
    parser.set_defaults(options=options)


def _add_pipeline_options(group: Any) -> None:
    add_option(group, "concept", str, "what to look for, named as in a prompt; required")
    add_option(group, "judge", str, "image classifier or CLIP model that sees the concept; required", metavar="MODEL")
    add_option(group, "label", str, "what the judge calls the concept; default: as it is named")
    add_option(group, "pictures", str, "pictures of the concept, else drawn by the reference", metavar="DIR")
    add_option(group, "reference", str, "a pipeline that knows the concept, as before the erasure", metavar="MODEL")
    add_option(group, "control", str, "a pipeline that never saw the concept", metavar="MODEL")
    add_option(group, "probes", list[str], "which probes; default: all", metavar="PROBE")
    add_option(group, "count", int, "pictures of each share; default: 100")
    add_option(group, "batch_size", int, "pictures drawn at once; default: 16")
    add_option(group, "concept_type", str, "object, style, attribute or person; default: by its name", metavar="TYPE")
    add_option(group, "new_word", str, "under which the concept is taught again; default: sks")
    add_option(group, "save_pictures", bool, "save some of the pictures, which may show the concept")
    for name, kind in _SAMPLING.items():
        add_option(group, name, kind, "of the pictures drawn; default: the pipeline's")


def run(args: argparse.Namespace) -> None:
    given = given_options(args)
    model = given.pop("model")
    if "output" not in given:
        raise UsageError("--output is missing; give it on the command line or in the --config file")
    output = given.pop("output")
    audit = audit_of(model)
    check_output(output, given.pop("overwrite", False))
    libraries = ("transformers", "diffusers", "datasets", "huggingface_hub")
    with Terminal(verbose=getattr(args, "verbose", False), libraries=libraries) as terminal:
        audit(model, given, Path(output), terminal)
        terminal.say(f"Saved to {output}")


def audit_of(model: str) -> Callable[[str, dict[str, Any], Path, Terminal], None]:
    """
    What audits this kind of model.

    Raises:
        UsageError: it is a folder of no kind that can be audited.
    """
    folder = Path(model)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise UsageError(f"{model} holds no model_index.json, so it is no diffusers pipeline; give the folder of one")
    return audit_pipeline


def audit_pipeline(model: str, given: dict[str, Any], output: Path, terminal: Terminal) -> None:
    """Run [`~scissorhands_hf.audit.probe_concept`], and save and print its report."""
    for name in ("concept", "judge"):
        if name not in given:
            raise UsageError(f"--{name} is missing; give it on the command line or in the --config file")
    loading, sampling = take(given, _LOADING), take(given, _SAMPLING)
    saves_pictures = given.pop("save_pictures", False)
    with terminal.stage("load"):
        pipe = load_pipeline(model, **loading)
    from ..audit import probe_concept
    from ..trainer.run_progress import Reporter

    report = probe_concept(pipe, given.pop("concept"), sampling=sampling, callback=Reporter(terminal.tell).tell, **given)
    report.save(output, pictures=saves_pictures)
    terminal.say(report.to_markdown())
    try:
        report.plot(output / "probes.png")
    except ImportError as error:  # the result is saved; only its picture needs a further package
        print(f"No picture of the report was drawn: {error}", file=sys.stderr)
