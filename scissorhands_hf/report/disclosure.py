"""What of a report may be published, by the user's choice: `"full"`, `"summary"` or `"none"`.

Reports are handled as the dictionaries that `UnlearningReport.to_dict` makes, so that a saved run can be published by a
process that knows nothing of its pipeline.
"""

from typing import Any

from .unlearning_report import UnlearningReport


DISCLOSURES = ("full", "summary", "none")
# Counts of cut weights by module are a mask, if a coarse one; concepts, prompts and notes name what was forgotten.
_PUBLIC = ("report", "settings", "metrics", "seconds", "versions", "history", "average_gap")
_TRIM_TOTALS = ("threshold", "candidates", "above_threshold", "trimmed", "saliency_batches")
# Settings whose text is one of the package's own words. Any other text, such as a concept or an anchor, is the user's.
_WORDS = (
    "forget_objective",
    "forget_schedule",
    "threshold_scope",
    "projection_margin_unit",
    "retain_objective",
    "optim",
    "lr_scheduler_type",
)
# A judge is not among them: "nudity-detector" would tell.
_MEASURE_WORDS = ("sampler", "scheduler")


def check_disclosure(disclose: str) -> None:
    """Raises ValueError for anything but the three choices."""
    if disclose not in DISCLOSURES:
        raise ValueError(f"disclose={disclose!r} is not one of {', '.join(map(repr, DISCLOSURES))}")


def is_concept_report(report: dict[str, Any]) -> bool:
    return "concepts" in report


def is_language_report(report: dict[str, Any]) -> bool:
    return report.get("report") == "language_audit"


def redact(report: dict[str, Any], disclose: str) -> dict[str, Any]:
    """The part of a report that may be published. Examples of an audit's answers never are: they are forget data.

    `"full"` keeps all but the counts per module of pipelines' and trainers' cuts. `"summary"` drops notes, concepts,
    prompts and settings in the user's words, and keeps sizes and figures; `"none"` drops the forget set's size, too.
    """
    check_disclosure(disclose)
    public = {key: report[key] for key in _PUBLIC if report.get(key)}
    public["trim"] = {key: report["trim"][key] for key in _TRIM_TOTALS if key in report.get("trim", {})}
    if disclose == "full":
        for key in ("notes", "sets", "concepts", "anchor", "edit", "measure", "prompts", "warnings", "intervals"):
            if report.get(key):
                public[key] = report[key]
        if "edit" in public:
            public["edit"] = {key: value for key, value in public["edit"].items() if key != "per_layer"}
        return public
    concept = is_concept_report(report)
    public["settings"] = {
        key: value
        for key, value in report.get("settings", {}).items()
        if value is None
        or isinstance(value, (bool, int, float))
        or key in _WORDS
        or value in ("inf", "-inf")  # numbers that JSON has no other form for
        or (key == "recipe" and disclose == "summary" and not concept)
        or key.endswith("_target_modules")
    }
    sets = report.get("sets", {})
    public["sets"] = {name: size for name, size in sets.items() if disclose == "summary" or "forget" not in name}
    # How wide an interval is tells how many examples there were.
    if is_language_report(report) and disclose == "summary" and report.get("intervals"):
        public["intervals"] = report["intervals"]
    if concept or (is_language_report(report) and disclose == "summary"):
        public["measure"] = {
            key: value
            for key, value in report.get("measure", {}).items()
            if isinstance(value, (bool, int, float)) or key in _MEASURE_WORDS
        }
    return public


def plot_values(report: dict[str, Any], disclose: str) -> UnlearningReport:
    """A report that holds only what a published picture may show."""
    public = redact(report, disclose)
    trim = dict(public["trim"])
    if disclose == "full" and report.get("trim", {}).get("per_module"):
        trim["per_module"] = report["trim"]["per_module"]
    return UnlearningReport(
        settings=public.get("settings", {}),
        metrics=public.get("metrics", {}),
        trim=trim,
        history=public.get("history", []),
        seconds=public.get("seconds", {}),
    )
