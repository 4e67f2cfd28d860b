"""The metadata of a card: what the Hub's widgets, filters and leaderboards read."""

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..report.figures import FIGURES
from ..report.markdown import one_line
from .card_info import CardInfo


PAPER = "2401.06187"
_SETS = ("forget", "retain", "test")
TAGS = ("machine-unlearning", "scissorhands", f"arxiv:{PAPER}")
SOURCE_NAME, SOURCE_URL = "scissorhands_hf", f"https://arxiv.org/abs/{PAPER}"


def set_of(metric: str, report: dict[str, Any]) -> str:
    """The data set that a figure is over, by the figure's name; "evaluation" where the name does not say."""
    if metric in FIGURES:
        return FIGURES[metric].over
    first = metric.split(" ", 1)[0]
    known = {"forget", "retain", "test"} | {name.removeprefix("eval:") for name in report.get("sets", {})}
    return first if first in known else "evaluation"


def set_size(name: str, report: dict[str, Any]) -> int | None:
    sizes = report.get("sets", {})
    return sizes.get(f"eval:{name}", sizes.get(name))


def eval_results(info: CardInfo, report: dict[str, Any]) -> list[EvalResult]:
    """A result for every figure that was measured of the unlearned model; ``report`` is the redacted one."""
    results = []
    for name, value in report.get("metrics", {}).get("unlearned", {}).items():
        figure, dataset = FIGURES.get(name), set_of(name, report)
        size = set_size(dataset, report)
        if figure is not None:
            kind, title = figure.metric_type, figure.metric_name or name
        else:
            kind, title = "accuracy" if "accuracy" in name.lower() else "custom", name
            # Pictures of prompts, and not of a set, are what a pipeline is measured on.
            dataset = "prompts" if info.library == "diffusers" else dataset
        dataset = f"{dataset} set" if dataset in _SETS or (figure is None and dataset != "prompts") else dataset
        results.append(
            EvalResult(
                task_type=info.pipeline_tag or "other",
                dataset_type=info.retain_datasets[0] if len(info.retain_datasets) == 1 else "custom",
                dataset_name=one_line(f"{dataset}, {size} examples" if size else dataset),
                # One entry by set: the Hub groups results by type, configuration and split.
                dataset_split=one_line(dataset.replace(" ", "-"), 60),
                metric_type=kind,
                metric_name=one_line(title, 100),
                metric_value=round(float(value), 6),
                source_name=SOURCE_NAME,
                source_url=SOURCE_URL,
            )
        )
    return results


def build_card_data(info: CardInfo, report: dict[str, Any], model_name: str) -> ModelCardData:
    """Metadata of the card. What is not known is left out; it is never guessed."""
    results = eval_results(info, report)
    metrics = sorted({result.metric_type for result in results if result.metric_type == "accuracy"})
    return ModelCardData(
        base_model=info.base_model,
        base_model_relation="finetune" if info.base_model else None,
        library_name=info.library,
        pipeline_tag=info.pipeline_tag,
        license=info.license,
        license_name=info.license_name,
        license_link=info.license_link,
        language=info.language or None,
        datasets=info.retain_datasets or None,
        tags=[*TAGS, *(one_line(tag, 60) for tag in info.tags)],
        metrics=metrics or None,
        eval_results=results or None,
        model_name=model_name if results else None,
    )
