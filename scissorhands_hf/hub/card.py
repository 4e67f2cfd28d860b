"""The text and the metadata of a card, from the report of a run: nothing is on it that the report does not hold."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..report.disclosure import is_concept_report, redact
from ..report.figures import FIGURES, Figure, figures_table, left_out, measured, names_of, prompt_groups, sentence, show
from ..report.markdown import Safe, code, finalize, one_line, prose, table
from .probe_section import probe_sections, what_was_done
from .run import PLOT_NAME, CardInfo


BEGIN = "<!-- scissorhands:begin -->"
END = "<!-- scissorhands:end -->"
PAPER = "2401.06187"
_SETS = ("forget", "retain", "test")
# Where models have more figures than this, as language models do, each figure has a row, and each model a column.
_MOST_COLUMNS = 12
TAGS = ("machine-unlearning", "scissorhands", f"arxiv:{PAPER}")
SOURCE_NAME, SOURCE_URL = "scissorhands_hf", f"https://arxiv.org/abs/{PAPER}"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, finalize=finalize, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    text = (files("scissorhands_hf") / "templates" / "card.md").read_text(encoding="utf-8")
    return environment.from_string(text)


def build_card(
    info: CardInfo,
    report: dict[str, Any],
    repo_id: str | None = None,
    plot: bool = False,
    probe_plots: Sequence[str] = (),
) -> ModelCard:
    """The card of one run, our part alone; see [`readme.merge`] for the user's.

    Args:
        info (`CardInfo`):
            Names and choices.
        report (`dict[str, Any]`):
            The whole report as a dictionary; what may be shown of it is chosen here by `info.disclose`.
        repo_id (`str`, *optional*):
            Of the repository that the card is for, for the snippet; None for a folder.
        plot (`bool`, *optional*, defaults to `False`):
            Whether `unlearning.png` lies beside the card.
        probe_plots (`Sequence[str]`, *optional*, defaults to `()`):
            Pictures of probes that lie beside it.
    """
    public = redact(report, info.disclose)
    repo_id = repo_id or info.repo_id
    name = repo_id.rpartition("/")[2] if repo_id else f"unlearned-{info.architecture}"
    data = build_card_data(info, public, name)
    body = _template().render(
        options=info.card_options(),
        begin=Safe(BEGIN),
        end=Safe(END),
        title=Safe(prose(repo_id.rpartition("/")[2])) if repo_id else Safe(f"{info.architecture}, unlearned"),
        summary=_summary(info),
        removed=_removed(info, report, public),
        done=what_was_done(info.reports or [report]) if is_concept_report(report) else [],
        removed_notes=_erasures(info) if info.disclose == "full" else [],
        measured=_measured(public),
        plot=Safe(PLOT_NAME) if plot else None,
        pictures=shown_pictures(info),
        probes=probe_sections(info, probe_plots),
        library=Safe(info.library),
        snippet=_snippet(info, repo_id),
        fp16_variant=info.fp16_variant,
        how=_how(info, public),
        limits=limits(info, public),
        method=_method(info.reports or [report]),
        settings=_settings(public),
        cut=_cut(public),
        seconds=_listing(public.get("seconds", {})),
        versions=_versions(public),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def shown_pictures(info: CardInfo) -> list[dict[str, Safe]]:
    """Before/after pictures that may be shown: with `disclose="full"` only, for their prompts name the concept, and of these
    what `pictures` allows."""
    if info.disclose != "full" or info.pictures == "none":
        return []
    return [
        {"prompt": code(entry["prompt"], in_table=True), "before": Safe(entry["before"]), "after": Safe(entry["after"])}
        for entry in info.strips
        if info.pictures == "all" or may_show_kept(entry["group"])
    ]


def may_show_kept(group: str) -> bool:
    """Whether pictures of a group of prompts are among those of `pictures="kept"`: the ones that should not have changed."""
    return group in prompt_groups() and prompt_groups()[group].direction == "stay"


def _summary(info: CardInfo) -> Safe:
    kind = "pipeline" if info.library == "diffusers" else "model"
    if info.base_model:
        link = f"[{prose(info.base_model)}](https://huggingface.co/{info.base_model})"
        return Safe(f"This is {link} after a part of what it had learned was removed from its weights.")
    return Safe(
        f"This is a trained `{info.architecture}` {kind} after a part of what it had learned was removed from its weights. "
        "Its base model is not on the Hub, or was not named."
    )


def _removed(info: CardInfo, report: dict[str, Any], public: dict[str, Any]) -> Safe:
    hidden = "What it was is not disclosed."
    if info.disclose == "none":
        return Safe(hidden)
    if is_concept_report(report):
        count = sum(len(entry["concepts"]) for entry in info.reports or [report])
        if info.disclose == "summary":
            return Safe(f"{count} concept{'s' if count != 1 else ''}. {hidden}")
        names = [concept for entry in info.reports or [report] for concept in entry["concepts"]]
        return Safe(f"The concept{'s' if count != 1 else ''} {', '.join(map(code, names))}.")
    sets = public.get("sets", {})
    size = ""
    if "forget" in sets and "retain" in sets:
        share = 100 * sets["forget"] / (sets["forget"] + sets["retain"])
        size = f"{sets['forget']:,} training examples, {share:.1f} % of the {sets['forget'] + sets['retain']:,} given. "
    if info.disclose == "summary":
        return Safe(f"{size}Which they are is not disclosed.")
    return Safe(f"{size}{prose(info.forgotten) if info.forgotten else 'The user did not describe them.'}")


def _erasures(info: CardInfo) -> list[Safe]:
    """One line for each erasure of a pipeline, oldest first."""
    lines = []
    for index, report in enumerate(info.reports, 1):
        concepts = ", ".join(map(code, report["concepts"]))
        led = _led_to(report)
        anchor = f", led to {', '.join(map(code, led))}" if led else ""
        last = index == len(info.reports)
        earlier = "" if last else " Measured before the later erasures: " + _figures(report) + "."
        lines.append(Safe(f"{concepts}{anchor}.{'' if last or not _figures(report) else earlier}"))
    return lines if len(lines) > 1 or any(map(_led_to, info.reports)) else []


def _led_to(report: dict[str, Any]) -> list[str]:
    """What the concepts' prompts ask for now: the user's anchor, or what was chosen."""
    chosen = report.get("edit", {}).get("instead", [])
    return [report["anchor"]] if report.get("anchor") else list(dict.fromkeys(filter(None, chosen)))


def _figures(report: dict[str, Any]) -> str:
    return ", ".join(
        f"{prose(name)} {show(name, value)}" for name, value in measured(report.get("metrics", {})).get("unlearned", {}).items()
    )


def _measured(public: dict[str, Any]) -> Safe | None:
    """The figures of each model as a table, prompts of pipelines in a second one."""
    heads, rows = figures_table(public.get("metrics", {}), public.get("average_gap"))
    if not rows:
        return None
    heads = [heads[0], *(code(name, in_table=True) for name in heads[1:])]
    lines = [heads, *([code(model, in_table=True), *cells] for model, *cells in rows)]
    if len(heads) > _MOST_COLUMNS:
        lines = [["figure", *lines[0][1:]], *lines[1:]]
        lines = list(map(list, zip(*lines, strict=True)))
    blocks = [table(lines[0], lines[1:])]
    if public.get("prompts"):
        heads = ["prompt", "group", "pictures", "before, %", "after, %", "change"]
        shares = (("concept", "original"), ("concept", "unlearned"), ("concept change", "change"))
        cells = [
            [
                code(row["prompt"], in_table=True),
                row["group"],
                str(row["images"]),
                *(show(figure, row.get(key)) for figure, key in shares),
            ]
            for row in public["prompts"]
        ]
        blocks.append(table(heads, cells, text_columns=2))
    return Safe("\n\n".join(blocks))


def _how(info: CardInfo, public: dict[str, Any]) -> list[Safe]:
    """What each figure is: its set and size, its seed, its detector and threshold."""
    names = names_of(public.get("metrics", {}))
    known = [FIGURES[name] for name in names if name in FIGURES]
    if public.get("average_gap"):
        known += [figure for figure in FIGURES.values() if figure.place == "average_gap"]
    by_label: dict[str, list[Figure]] = {}
    for figure in known:
        by_label.setdefault(figure.label or figure.name, []).append(figure)
    lines = [Safe(f"{code(label)}: {_meaning(members, public)}.") for label, members in by_label.items()]
    others = [name for name in names if name not in FIGURES]
    if others:
        sizes = {dataset: set_size(dataset, public) for dataset in dict.fromkeys(set_of(name, public) for name in others)}
        shown = ", ".join(f"{code(dataset)} ({size:,} examples)" for dataset, size in sizes.items() if size)
        lines.append(
            Safe(f"{', '.join(map(code, others))}: as the user's evaluation gave them{f', over {shown}' if shown else ''}.")
        )
    lines += [Safe(figure.remark) for figure in known if figure.remark]
    lines += [prose(f"{gone}.") for gone in left_out(public.get("metrics", {}))]
    if public.get("measure"):
        lines.append(
            Safe(
                "Pictures: "
                + ", ".join(f"{prose(key.replace('_', ' '))} {code(str(value))}" for key, value in public["measure"].items())
                + "."
            )
        )
    if public.get("settings", {}).get("seed") is not None and names:
        lines.append(Safe(f"Seed of the run: {public['settings']['seed']}."))
    lines += [prose(note) for note in public.get("notes", ())]
    lines += [Safe(f"Warning of the run: {prose(warning)}") for warning in public.get("warnings", ())]
    return lines


def _meaning(members: Sequence[Figure], public: dict[str, Any]) -> str:
    """What figures of one meaning are, and over how many examples: of each set, where they are over several."""
    sizes = {figure.over: set_size(figure.over, public) for figure in members}
    if len(set(sizes.values())) == 1:
        return sentence(members[0], next(iter(sizes.values())))
    shown = ", ".join(f"{over} {size:,}" for over, size in sizes.items() if size)
    return f"{sentence(members[0])}; examples: {shown}"


def _settings(public: dict[str, Any]) -> list[tuple[Safe, Safe]]:
    return [
        (code(name, in_table=True), code(_value(value), in_table=True))
        for name, value in public.get("settings", {}).items()
        if value is not None
    ]


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_TARGETS = {
    "neighbours": "with its part in the model's predictions given to what is nearest to it",
    "bayes": "as Bayes' rule says that a model of the rest of its pictures would predict them",
}


def _method(reports: Sequence[dict[str, Any]]) -> Safe:
    """What was done in any of the runs, of all that the method may hold."""
    cut = any(report.get("trim", {}).get("trimmed") for report in reports)
    steps = []
    if cut:
        steps.append("the weights that the forget set depends on most were re-initialised once")
    if any(report.get("settings", {}).get("forget_objective") == "closed_form" for report in reports):
        steps.append(
            "the layers that read prompts were solved for in closed form, to answer what was removed as something else and "
            "beyond (after [arXiv:2308.14761](https://arxiv.org/abs/2308.14761))"
        )
    removals = [report["settings"] for report in reports if report.get("settings", {}).get("forget_objective") == "removal"]
    if removals:
        # Neighbours were not there to choose in the first reports; the other two were, and were the default.
        targets = dict.fromkeys(settings.get("removal_target", "bayes") for settings in removals)
        ways = ["with words"]
        # None, as 0.25 in earlier reports, is a quarter.
        if any(settings.get("empty_prompt_share") != 0 for settings in removals):
            ways.append("without")
        if any(settings.get("adversarial_states", 4) and settings.get("adversarial_share", 0.5) for settings in removals):
            ways.append("under text states made to bring them back")
        steps.append(
            f"the pictures of what was removed were taught, {', '.join(ways[:-1])}{' and ' if ways[1:] else ''}{ways[-1]}, "
            + " or ".join(_TARGETS[target] for target in targets)
        )
    others = dict.fromkeys(report.get("settings", {}).get("forget_objective") for report in reports)
    against = [code(name) for name in others if name not in (None, "closed_form", "removal")]
    steps.append(
        "the model was repaired on what it is to keep"
        + (f", and trained away from what was removed ({', '.join(against)})" if against else "")
    )
    uncut = "" if cut else ", without its re-initialisation of weights"
    return Safe(f"Scissorhands ([arXiv:2401.06187](https://arxiv.org/abs/2401.06187)){uncut}: {', then '.join(steps)}.")


def _cut(public: dict[str, Any]) -> Safe | None:
    trim = public.get("trim", {})
    if not {"trimmed", "candidates"} <= trim.keys() or not trim["candidates"]:
        return None
    return Safe(
        f"Re-initialised: {trim['trimmed']:,} weights, {100 * trim['trimmed'] / trim['candidates']:.2f} % of the "
        f"{trim['candidates']:,} that were compared."
    )


def _listing(values: dict[str, float]) -> Safe | None:
    return Safe(", ".join(f"{prose(name)} {value:.1f}" for name, value in values.items())) if values else None


def _versions(public: dict[str, Any]) -> Safe:
    versions = public.get("versions", {})
    return Safe(", ".join(code(f"{name} {version}") for name, version in versions.items()) or "not recorded")


def _snippet(info: CardInfo, repo_id: str | None) -> Safe:
    """Code that loads what the card is about. A folder is loaded by ".", the place of the card."""
    place = f'"{repo_id}"' if repo_id else '"."'
    if info.variant:
        place += f', variant="{info.variant}"'
    comment = "" if repo_id else "  # the folder of this file"
    if info.library == "diffusers":
        lines = [
            f"from diffusers import {info.loader}",
            "",
            f"pipe = {info.loader}.from_pretrained({place}){comment}",
        ]
        return Safe("\n".join(lines))
    lines = [f"from transformers import {', '.join(sorted([*info.processors, info.loader]))}", ""]
    names = {"AutoTokenizer": "tokenizer", "AutoProcessor": "processor"}
    for processor in info.processors:
        lines.append(f"{names.get(processor, 'processor')} = {processor}.from_pretrained({place})")
    lines.append(f"model = {info.loader}.from_pretrained({place}){comment}")
    return Safe("\n".join(lines))


def limits(info: CardInfo, public: dict[str, Any]) -> list[Safe]:
    """Sentences for the card. `public` is the redacted report."""
    metrics = {model: figures for model, figures in measured(public.get("metrics", {})).items() if figures}
    figures = set(names_of(metrics))
    lines = [
        "Unlearning of this kind is approximate. It gives no formal guarantee, and traces of what was removed can remain in "
        "the weights where nobody looked for them.",
        "Further training, even on other data, can bring removed knowledge back. An attack stronger than those tried may find "
        "it.",
        "The change is in the weights of this repository. Unlike an adapter, which its user can switch off, it cannot be taken "
        "back here; but whoever has the model from before, or an earlier commit of this repository, has what was removed.",
    ]
    if info.library == "diffusers":
        lines += [
            "What was erased can come back through words, languages, spellings and embeddings that were not tried, through a "
            "picture as the input, or through learned tokens and adapters.",
            "Neighbours of what was erased may have suffered; only the prompts above were looked at. Keep the filters that you "
            "would use without this change.",
        ]
        if not any(name in figures for name in ("concept", "paraphrases")):
            lines.append("No judge looked at the pictures: that they changed was measured, not what they show.")
    else:
        if "MIA" not in figures:
            lines.append("No membership attack was tried.")
        if metrics and "retrained" not in metrics:
            lines.append(
                "No model was retrained without the forget set, so how far these figures are from that goal is not known. A "
                "low accuracy on the forget set alone does not show good unlearning."
            )
    if metrics and "original" not in metrics:
        lines.append("The model before the change was not measured in the same way.")
    lines.append("What holds of the base model, its biases and its licence among it, holds of this one.")
    return [Safe(line) for line in lines]


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
    """A result for every figure that was measured of the unlearned model; `report` is the redacted one."""
    results = []
    for name, value in measured(report.get("metrics", {})).get("unlearned", {}).items():
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
                dataset_type=info.retain_datasets[0] if info.retain_datasets and len(info.retain_datasets) == 1 else "custom",
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
        tags=[*TAGS, *(one_line(tag, 60) for tag in info.tags or ())],
        metrics=metrics or None,
        eval_results=results or None,
        model_name=model_name if results else None,
    )
