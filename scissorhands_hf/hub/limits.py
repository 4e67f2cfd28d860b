"""The limits and risks of an unlearned model, in plain words, chosen by what was and was not measured."""

from typing import Any

from ..report.markdown import Safe
from .card_info import CardInfo


def limits(info: CardInfo, public: dict[str, Any]) -> list[Safe]:
    """Sentences for the card. ``public`` is the redacted report."""
    metrics = public.get("metrics", {})
    figures = {name for values in metrics.values() for name in values}
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
