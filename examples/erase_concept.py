"""Erase a concept from a text-to-image pipeline: the pictures before and after, the figures, and the pipeline without it.

    python examples/erase_concept.py --concept dress
    python examples/erase_concept.py --model me/my-pipeline --concept "in the style of Monet" --output out/no-monet

Without --model it takes the tiny garment pipeline that ships with the repository (about two minutes) and judges
its pictures by the classifier beside it. Writes OUTPUT/pipeline, which plain DiffusionPipeline.from_pretrained loads,
OUTPUT/report.png and OUTPUT/unlearning_report.json. On several devices: accelerate launch examples/erase_concept.py ...
"""

import argparse
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline

from scissorhands_hf import ConceptErasureReport, enable_concept_erasure
from scissorhands_hf.cli.terminal import Terminal


REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # started by its path; the judge of the shipped pipeline lies beside the demo

from spaces_demo.judge import FashionJudge  # noqa: E402


SHIPPED = REPOSITORY / "spaces_demo" / "fashion_pipeline"


def erase(
    concepts: list[str], output: Path, terminal: Terminal, model: str | None = None, judge: str | None = None, **settings
) -> ConceptErasureReport:
    """Load, erase, save and draw; the first process alone writes."""
    state = PartialState()
    with terminal.stage("load"):
        pipe = DiffusionPipeline.from_pretrained(model or SHIPPED).to(state.device)
    if model is None:
        judge = judge or FashionJudge()
        settings.setdefault("sampling", {"guidance_scale": 4.0})  # what that pipeline is made for
    report = enable_concept_erasure(pipe).erase_concept(
        concepts, judge=judge, callback=terminal.tell, disable_tqdm=terminal.quiet, **settings
    )
    if state.is_main_process:
        pipe.save_pretrained(output / "pipeline")
        report.save(output)
        report.plot(output / "report.png")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub id or folder; default: the shipped pipeline")
    parser.add_argument("--concept", nargs="+", required=True, help="what to erase")
    parser.add_argument("--anchor", help="what to draw in its place")
    parser.add_argument("--keep", nargs="+", help="neighbours that matter most")
    parser.add_argument("--judge", help="image classifier or CLIP model that counts the concept in pictures")
    parser.add_argument("--output", type=Path, default=Path("out/erased"))
    parser.add_argument("--max_steps", type=int, help="of repair")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--verbose", action="store_true", help="show the libraries' bars, losses and warnings")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {"anchor": args.anchor, "keep": args.keep, "seed": args.seed}
    if args.max_steps is not None:
        settings["max_steps"] = args.max_steps
    with Terminal(args.verbose, libraries=["transformers", "datasets", "diffusers"]) as terminal:
        report = erase(args.concept, args.output, terminal, args.model, args.judge, **settings)
        terminal.show(report)
        seconds, pictures, pipeline = report.seconds["total"], args.output / "report.png", args.output / "pipeline"
        terminal.say(f"{seconds:.0f} s. Pictures: {pictures}. Pipeline: {pipeline}")


if __name__ == "__main__":
    main()
