"""A saved run: the folder that a trainer or pipeline left, and what its card needs beside the report."""

import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.modelcard import TASK_MAPPING

from ..report.card_options import CardOptions
from ..report.disclosure import redact
from ..report.strict_json import to_json
from ..report.unlearning_report import REPORT_NAME
from .connection import UploadRefusedError
from .probe_section import public_probes


INFO_NAME = "scissorhands_card.json"
CARD_NAME = "README.md"
PLOT_NAME = "unlearning.png"
# A pipeline's own picture of its report, with prompts: local, copied to the card's where those may be shown.
ERASURE_PLOT = "erasure_report.png"
PICTURE_FOLDER = "before_after"
_SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\]")
# The class that loads each task of the Hub; other models are loaded by their own.
_AUTO_CLASSES = {
    "text-generation": "AutoModelForCausalLM",
    "image-classification": "AutoModelForImageClassification",
    "image-segmentation": "AutoModelForImageSegmentation",
    "fill-mask": "AutoModelForMaskedLM",
    "object-detection": "AutoModelForObjectDetection",
    "question-answering": "AutoModelForQuestionAnswering",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "audio-classification": "AutoModelForAudioClassification",
    "zero-shot-image-classification": "AutoModelForZeroShotImageClassification",
    "image-text-to-text": "AutoModelForImageTextToText",
}


@dataclass(kw_only=True)
class CardInfo(CardOptions):
    """
    What a card is made of beside the report: what the user says ([`CardOptions`]) and what the model is. Kept in the run's
    folder, never uploaded.

    Args:
        library (`str`):
            `"transformers"` or `"diffusers"`.
        architecture (`str`):
            Class of the model or pipeline, in that library.
        loader (`str`):
            The class whose `from_pretrained` loads it.
        processors (`list[str]`):
            `AutoTokenizer`, `AutoImageProcessor`, ... for what lies beside the weights.
        pipeline_tag (`str`, *optional*):
            The Hub's task.
        license_name, license_link (`str`, *optional*):
            As in the base model's card.
        explicit (`list[str]`):
            Which of the options the user set, and which therefore win over an existing card's.
        weights (`dict[str, str]`):
            Digest of the saved weights by component, `""` for a model without components.
        strips (`list[dict[str, str]]`):
            Before/after pictures of pipelines: prompt, group, and the two files.
        reports (`list[dict]`):
            Of a pipeline, the dictionaries of its erasures, oldest first. A trainer's report has a file of its own.
        probes (`list[dict]`):
            Of a pipeline, the dictionaries of reports of probes on these weights.
        variant (`str`, *optional*):
            Of the saved weights, if they are saved under one alone.
        fp16_variant (`bool`):
            Whether half-precision copies lie beside the weights.
        repo_id (`str`, *optional*):
            Where it was pushed to.
    """

    library: str
    architecture: str
    loader: str
    processors: list[str] = field(default_factory=list)
    pipeline_tag: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    explicit: list[str] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)
    strips: list[dict[str, str]] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)
    variant: str | None = None
    fp16_variant: bool = False
    repo_id: str | None = None

    def update(self, **options: Any) -> None:
        """
        Set options of the card that are not None, and remember that the user did.

        Raises:
            TypeError: a field that [`CardOptions`] does not have.
            ValueError: a value that the card or the Hub would not take; nothing was set then.
        """
        given = {name: value for name, value in options.items() if value is not None}
        known = self.card_options()
        for name in given:
            if name not in known:
                raise TypeError(f"{name!r} is not a field of the card; it has {', '.join(known)}")
        checked = CardOptions(**{**known, **given})
        for name in given:
            setattr(self, name, getattr(checked, name))
        self.explicit = list(dict.fromkeys([*self.explicit, *given]))

    def save(self, directory: Path) -> None:
        target = directory / INFO_NAME
        partial = target.with_name(target.name + ".partial")
        partial.write_text(to_json(asdict(self)), encoding="utf-8")
        os.replace(partial, target)

    @classmethod
    def load(cls, directory: Path) -> "CardInfo | None":
        """What [`save`] wrote, None if there is none.

        Raises:
            UploadRefusedError: the file is damaged.
        """
        path = directory / INFO_NAME
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(values.get("pictures"), list):  # what the strips were called before there was a choice of them
                values["strips"] = values.pop("pictures")
            known = {item.name for item in fields(cls)}
            return cls(**{key: value for key, value in values.items() if key in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise UploadRefusedError(f"{INFO_NAME} is damaged ({error}); delete it and save the model again") from error


def hub_id_of(name_or_path: str | os.PathLike | None) -> str | None:
    """The Hub id that a model was loaded by, None for a local folder. The Hub's own cache knows where its folders come from."""
    if not name_or_path:
        return None
    name_or_path = os.fspath(name_or_path)
    snapshot = _SNAPSHOT.search(name_or_path)
    if snapshot:
        return f"{snapshot.group(1)}/{snapshot.group(2)}"
    if os.path.isabs(name_or_path) or name_or_path.startswith((".", "~")) or os.path.exists(name_or_path):
        return None
    try:
        validate_repo_id(name_or_path)
    except HFValidationError:
        return None
    return name_or_path


@dataclass
class SavedRun:
    """A folder with what its card is made from."""

    directory: Path
    info: CardInfo
    report: dict[str, Any]

    @property
    def public_report(self) -> dict[str, Any]:
        """What a push publishes of the report; of a pipeline, with its earlier erasures where they may be named."""
        public = redact(self.report, self.info.disclose)
        earlier = [redact(report, self.info.disclose) for report in self.info.reports[:-1]]
        return public | {"earlier": earlier} if earlier and self.info.disclose == "full" else public

    @property
    def public_texts(self) -> list[Any]:
        """Whatever users wrote that the card or the published report shows, as far as the disclosure allows."""
        info = self.info
        shown = [info.forgotten, *(strip["prompt"] for strip in info.strips)] if info.disclose == "full" else []
        earlier = [redact(report, info.disclose) for report in info.reports[:-1]]
        return [self.public_report, *earlier, *public_probes(info), info.tags, *shown]


def load_run(directory: str | Path) -> SavedRun:
    """Read the report and the card's choices of a run that a trainer or pipeline saved.

    Raises:
        UploadRefusedError: there is no report, or no model.
    """
    directory = Path(directory)
    info = CardInfo.load(directory) or info_from_files(directory)
    if info.reports:
        return SavedRun(directory, info, info.reports[-1])
    path = directory / REPORT_NAME
    if not path.is_file():
        raise UploadRefusedError(
            f"{directory} has no {REPORT_NAME}: nothing was unlearned there, or it was not saved. train() writes it to "
            "output_dir, report.save(DIR) to another folder."
        )
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UploadRefusedError(f"{path} is damaged ({error})") from error
    return SavedRun(directory, info, report)


def info_from_files(directory: Path) -> CardInfo:
    """What can be told of a model from its files alone, for a folder that was saved without a card's choices.

    Raises:
        UploadRefusedError: no model was saved there.
    """
    index, config = directory / "model_index.json", directory / "config.json"
    if index.is_file():
        return pipeline_info(json.loads(index.read_text(encoding="utf-8")).get("_class_name", "DiffusionPipeline"))
    if not config.is_file():
        raise UploadRefusedError(f"{directory} holds no saved model: no config.json and no model_index.json")
    architecture = (json.loads(config.read_text(encoding="utf-8")).get("architectures") or ["AutoModel"])[0]
    return model_info(architecture, directory)


def pipeline_info(class_name: str) -> CardInfo:
    """A pipeline's task, by its class. The concept's name is shown unless the user says otherwise."""
    task = "text-to-image"
    if "Img2Img" in class_name or "InstructPix2Pix" in class_name:
        task = "image-to-image"
    return CardInfo(
        library="diffusers", architecture=class_name, loader="DiffusionPipeline", pipeline_tag=task, disclose="full"
    )


def model_info(architecture: str, directory: Path) -> CardInfo:
    """A model's task and loader by its class, and its processors by their files."""
    # Undocumented, but the only table from class to task (transformers 5.23).
    task = next((task for task, classes in TASK_MAPPING.items() if architecture in _names(classes)), None)
    loader = _AUTO_CLASSES.get(task or "", architecture)
    return CardInfo(
        library="transformers",
        architecture=architecture,
        loader=loader,
        processors=processors_in(directory),
        pipeline_tag=task,
    )


def processors_in(directory: Path) -> list[str]:
    """The Auto classes that load what lies beside the weights."""
    if (directory / "processor_config.json").is_file():
        return ["AutoProcessor"]
    found = ["AutoTokenizer"] if (directory / "tokenizer_config.json").is_file() else []
    preprocessor = directory / "preprocessor_config.json"
    if preprocessor.is_file():
        values = json.loads(preprocessor.read_text(encoding="utf-8"))
        found.append("AutoFeatureExtractor" if "feature_extractor_type" in values else "AutoImageProcessor")
    return found


def _names(classes: dict[str, Any]) -> set[str]:
    names: set[str] = set()
    for value in classes.values():
        names.update(value if isinstance(value, (list, tuple)) else [value])
    return names
