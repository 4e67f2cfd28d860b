"""What a card can be told beside what was measured: read by configurations, commands, pipelines and the Space alike."""

import re
from dataclasses import dataclass, field, fields
from typing import Any

from .disclosure import check_disclosure


PICTURE_CHOICES = ("all", "kept", "none")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4})?|code|multilingual")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


@dataclass
class CardOptions:
    """
    What the user says of a model for its card. A field that is added here is known to the configuration, the commands `card`
    and `push`, `pipe.save_pretrained` and `pipe.push_to_hub`.

    Args:
        disclose (`str`, *optional*, defaults to `"summary"`):
            How much of what was forgotten the card and the published report tell: `"full"`, `"summary"` (how much, not what)
            or `"none"`. Pipelines say `"full"` unless told otherwise.
        forgotten (`str`, *optional*):
            What was forgotten, in words; shown with `disclose="full"`.
        base_model (`str`, *optional*):
            Hub id of the model that is made to forget. Default: what it was loaded by, unless that is a folder.
        license (`str`, *optional*):
            Licence of the unlearned model as the Hub names it. Default: that of the base model's card.
        language (`list[str]`, *optional*):
            Language codes. Default: those of the base model's card.
        retain_datasets (`list[str]`, *optional*):
            Hub ids of the data sets that the model was repaired on.
        tags (`list[str]`, *optional*):
            Further tags.
        pictures (`str`, *optional*, defaults to `"all"`):
            Which pairs of a pipeline's pictures the card may show: `"all"`, those of `"kept"` prompts, or `"none"`.

    Raises:
        ValueError: a choice that does not exist, or an id, licence or language that the Hub would not take.
    """

    disclose: str = field(
        default="summary",
        metadata={
            "help": "how much of what was forgotten is told: 'full', 'summary' or 'none'",
            "choices": ("full", "summary", "none"),
        },
    )
    forgotten: str | None = field(
        default=None, metadata={"help": "what was forgotten, in words for the card; shown with disclose='full'"}
    )
    base_model: str | None = field(default=None, metadata={"help": "Hub id of the model that is made to forget"})
    license: str | None = field(
        default=None, metadata={"help": "licence as the Hub names it, as apache-2.0; default: the base model's"}
    )
    language: list[str] | None = field(default=None, metadata={"help": "language codes for the card"})
    retain_datasets: list[str] | None = field(
        default=None, metadata={"help": "Hub ids of the data sets that the model is repaired on"}
    )
    tags: list[str] | None = field(default=None, metadata={"help": "further tags of the card"})
    pictures: str = field(
        default="all",
        metadata={"help": "pictures of a pipeline that the card may show: 'all', 'kept' or 'none'", "choices": PICTURE_CHOICES},
    )

    def __post_init__(self) -> None:
        for name in ("language", "retain_datasets", "tags"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        self.check_card_options()

    def check_card_options(self) -> None:
        """Raise ValueError for the first value that the Hub, or the card, would not take."""
        check_disclosure(self.disclose)
        if self.pictures not in PICTURE_CHOICES:
            raise ValueError(f"pictures={self.pictures!r} is not one of {', '.join(map(repr, PICTURE_CHOICES))}")
        check_choices(self.base_model, self.license, self.language, self.retain_datasets)

    def card_options(self) -> dict[str, Any]:
        """The values of the fields of this class alone, by name."""
        return {item.name: getattr(self, item.name) for item in fields(CardOptions)}


def check_choices(
    base_model: str | None, license: str | None, language: list[str] | None, retain_datasets: list[str] | None
) -> None:
    """Raises ValueError naming the first value that the Hub would not take."""
    if base_model is not None:
        check_hub_id("base_model", base_model)
    for dataset in retain_datasets or ():
        check_hub_id("retain_datasets", dataset)
    if license is not None and not _LICENSE.fullmatch(license):
        raise ValueError(f"license={license!r} is not a licence identifier of the Hub, such as 'apache-2.0' or 'other'")
    for code in language or ():
        if not _LANGUAGE.fullmatch(code):
            raise ValueError(f"language={code!r} is not a language code, such as 'en' or 'multilingual'")


def check_hub_id(argument: str, value: str) -> None:
    """Raises ValueError unless `value` is an id on the Hub, as 'owner/name'."""
    # Here, so that the options of a command can be listed without the Hub's client.
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(value)
    except HFValidationError as error:
        raise ValueError(f"{argument}={value!r} is not an id on the Hub, such as 'owner/name'") from error
