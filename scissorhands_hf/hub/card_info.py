"""What a card needs beside the report: names, licence and choices. Kept in the run's folder, never uploaded."""

import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..report.card_options import check_choices
from ..report.disclosure import check_disclosure
from .errors import UploadRefusedError


INFO_NAME = "scissorhands_card.json"
_SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\]")


@dataclass
class CardInfo:
    """Names and choices for one card.

    Args:
        library: "transformers" or "diffusers".
        architecture: class of the model or pipeline, in that library.
        loader: the class whose `from_pretrained` loads it.
        processors: `AutoTokenizer`, `AutoImageProcessor`, … for what lies beside the weights.
        pipeline_tag: the Hub's task.
        base_model: Hub id of the model that was made to forget; None if it has none or it is not known.
        license, license_name, license_link, language: as in the base model's card, or as the user says.
        retain_datasets: Hub ids of what the model was repaired on.
        disclose: "full", "summary" or "none".
        forgotten: the user's words on what was removed; shown with disclose="full".
        tags: further tags.
        explicit: which of these the user set, and which therefore win over an existing card's.
        weights: digest of the saved weights by component, "" for a model without components.
        pictures: before/after pictures of pipelines: prompt, group, and the two files.
        reports: of a pipeline, the dictionaries of its erasures, oldest first. A trainer's report has a file of its own.
        variant: of the saved weights, if they are saved under one alone.
        fp16_variant: whether half-precision copies lie beside the weights.
        repo_id: where it was pushed to.
        in_progress: for a checkpoint pushed during training, how far it is.
    """

    library: str
    architecture: str
    loader: str
    processors: list[str] = field(default_factory=list)
    pipeline_tag: str | None = None
    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: list[str] = field(default_factory=list)
    retain_datasets: list[str] = field(default_factory=list)
    disclose: str = "summary"
    forgotten: str | None = None
    tags: list[str] = field(default_factory=list)
    explicit: list[str] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)
    pictures: list[dict[str, str]] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    variant: str | None = None
    fp16_variant: bool = False
    repo_id: str | None = None
    in_progress: str | None = None

    def __post_init__(self):
        check_disclosure(self.disclose)
        check_choices(self.base_model, self.license, self.language, self.retain_datasets)

    def update(self, **choices: Any) -> None:
        """Set what is not None and remember that the user did.

        Raises:
            ValueError: an id, licence or language that the Hub would not take.
        """
        for key, value in choices.items():
            if value is None:
                continue
            if key in ("language", "retain_datasets", "tags") and isinstance(value, str):
                value = [value]
            setattr(self, key, value)
            if key not in self.explicit:
                self.explicit.append(key)
        self.__post_init__()

    def save(self, directory: Path) -> None:
        target = directory / INFO_NAME
        partial = target.with_name(target.name + ".partial")
        partial.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, target)

    @classmethod
    def load(cls, directory: Path) -> "CardInfo | None":
        """What :meth:`save` wrote, None if there is none.

        Raises:
            UploadRefusedError: the file is damaged.
        """
        path = directory / INFO_NAME
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            known = {item.name for item in fields(cls)}
            return cls(**{key: value for key, value in values.items() if key in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise UploadRefusedError(f"{INFO_NAME} is damaged ({error}); delete it and save the model again") from error


def hub_id_of(name_or_path: str | None) -> str | None:
    """The Hub id that a model was loaded by, None for a local folder. The Hub's own cache knows where its folders come from."""
    if not name_or_path:
        return None
    snapshot = _SNAPSHOT.search(str(name_or_path))
    if snapshot:
        return f"{snapshot.group(1)}/{snapshot.group(2)}"
    if os.path.isabs(name_or_path) or name_or_path.startswith((".", "~")) or os.path.exists(name_or_path):
        return None
    try:
        validate_repo_id(name_or_path)
    except HFValidationError:
        return None
    return name_or_path
