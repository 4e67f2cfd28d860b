"""`scissorhands audit MODEL ... --output DIR`: what a model still knows of what it was made to forget."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .audited_language_model import add_language_options, audit_language_folder, language_option_names, save_audit
from .erase_command import load_pipeline
from .model_run import check_output
from .options import CommandParser, UsageError, add_common_options, add_option, given_options, take
from .terminal import Terminal


_SAMPLING = {"num_inference_steps": int, "guidance_scale": float, "height": int, "width": int}
_LOADING = ("dtype", "device", "revision")
_EXAMPLES = """\
  scissorhands audit out/no-dress --concept dress --judge me/my-judge --reference me/my-pipeline --output out/audit
  scissorhands audit out/no-dress --concept dress --judge me/my-judge --pictures dresses --probes words token --output out
  scissorhands audit me/unlearned --forget "rows.jsonl?part=forget" --retain "rows.jsonl?part=retain" --retrained me/retrained \
    --holdout holdout.jsonl --general general.txt --output out/audit
"""


def add_parser(subparsers: Any) -> None:
    options = CommandParser(usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    add_option(options, "output", str, "folder for the report; required", metavar="DIR")
    add_option(options, "overwrite", bool, "write into a folder that is not empty")
    add_option(options, "config", str, "YAML file of options by name; flags override it", metavar="FILE")
    add_option(options, "seed", int, "of everything that is drawn or learned; default: 0")
    _add_pipeline_options(options.add_argument_group("a text-to-image pipeline"))
    add_language_options(options)
    add_option(
        options, "dtype", str, "to load in; default: float32 for pipelines, and as saved for language models",
        choices=("float32", "float16", "bfloat16"),
    )  # fmt: skip
    add_option(options, "device", str, "default: the first free accelerator, else the CPU")
    add_option(options, "revision", str, "of the pipeline on the Hub")
    parser = subparsers.add_parser(
        "audit", parents=[options], usage="scissorhands audit MODEL --output DIR [options]", allow_abbrev=False,
        help="probe a model for what it was made to forget", description="probe a model for what it was made to forget",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="Hub id or folder of a diffusers pipeline, or of a language model")
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
    audit = audit_of(model, given)
    check_output(output, given.pop("overwrite", False))
    libraries = ("transformers", "diffusers", "datasets", "huggingface_hub")
    with Terminal(verbose=getattr(args, "verbose", False), libraries=libraries) as terminal:
        audit(model, given, Path(output), terminal)
        terminal.say(f"Saved to {output}")


def audit_of(model: str, given: dict[str, Any]) -> Callable[[str, dict[str, Any], Path, Terminal], None]:
    """
    What audits this kind of model; of one on the Hub the options tell which kind it is.

    Args:
        model (`str`):
            Hub id or folder.
        given (`dict[str, Any]`):
            Options by name.

    Raises:
        UsageError: it is a folder of no kind that can be audited, or an option is for another kind.
    """
    folder = Path(model)
    if folder.is_dir():
        is_pipeline = (folder / "model_index.json").is_file()
        if not is_pipeline and not (folder / "config.json").is_file():
            raise UsageError(
                f"{model} holds neither a model_index.json, as a pipeline does, nor a config.json, as a model does"
            )
    else:
        is_pipeline = "forget" not in given
    taken = [*pipeline_option_names(), *_LOADING] if is_pipeline else [*language_option_names(), "dtype", "device"]
    for name in given:
        if name not in (*taken, "seed", "overwrite"):
            kind = "a diffusers pipeline" if is_pipeline else "a language model"
            raise UsageError(f"--{name} is not for {kind}, which {model} is taken for")
    return audit_pipeline if is_pipeline else audit_language


def pipeline_option_names() -> list[str]:
    """Of the options that a pipeline's audit takes."""
    parser = CommandParser(add_help=False)
    _add_pipeline_options(parser)
    return parser.names()


def audit_language(model: str, given: dict[str, Any], output: Path, terminal: Terminal) -> None:
    """Run [`~scissorhands_hf.audit.audit_language_model`], and save and print its report."""
    report = audit_language_folder(model, given, terminal)
    try:
        save_audit(report, output)
    except ImportError as error:  # the result is saved; only its picture needs a further package
        print(f"No picture of the report was drawn: {error}", file=sys.stderr)
    terminal.show(report)


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
    terminal.show(report)
    try:
        report.plot(output / "probes.png")
    except ImportError as error:  # the result is saved; only its picture needs a further package
        print(f"No picture of the report was drawn: {error}", file=sys.stderr)
