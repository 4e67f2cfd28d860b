"""Writes the card of a saved run, with its picture, into the run's folder. Needs no network."""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.modelcard import TASK_MAPPING

from ..report.disclosure import is_concept_report, plot_values, redact
from ..report.unlearning_report import REPORT_NAME
from .card import PLOT_NAME, build_card
from .card_info import CardInfo
from .check import weight_digests
from .errors import UploadRefusedError
from .markers import merge
from .privacy import check_texts
from .staging import CARD_NAME


logger = logging.getLogger(__name__)

# A pipeline's own picture of its report, with prompts: local, copied to the card's where those may be shown.
ERASURE_PLOT = "erasure_report.png"
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


@dataclass
class SavedRun:
    """A folder with what its card is made from."""

    directory: Path
    info: CardInfo
    report: dict[str, Any]

    @property
    def public_report(self) -> dict[str, Any]:
        return redact(self.report, self.info.disclose)


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
    return CardInfo("diffusers", class_name, "DiffusionPipeline", pipeline_tag=task, disclose="full")


def model_info(architecture: str, directory: Path) -> CardInfo:
    """A model's task and loader by its class, and its processors by their files."""
    task = next((task for task, classes in TASK_MAPPING.items() if architecture in _names(classes)), None)
    loader = _AUTO_CLASSES.get(task or "", architecture)
    return CardInfo("transformers", architecture, loader, processors_in(directory), task)


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


def write_card(directory: str | Path, repo_id: str | None = None, accept_weights: bool = False, **choices: Any) -> Path:
    """Write `README.md` and `unlearning.png` for a saved run, from its report. What the user wrote there stays.

    Args:
        directory: output_dir of a trainer, or the folder of a pipeline's `save_pretrained`.
        repo_id: Hub id for the snippet.
        accept_weights: the weights were replaced on purpose since the report was written.
        choices: fields of :class:`CardInfo` to change and keep: disclose, base_model, license, language, retain_datasets,
            forgotten, tags.

    Returns:
        Path of the card.

    Raises:
        UploadRefusedError: no run was saved there, or a text names this machine's user.
        ValueError: a choice that the Hub would not take.
    """
    run = load_run(directory)
    run.info.update(repo_id=repo_id, **choices)
    if accept_weights:
        run.info.weights = weight_digests(run.directory, run.info.library, run.info.variant)
    run.info.save(run.directory)
    draw_plot(run)
    text = render(run, existing=_read(run.directory / CARD_NAME))
    path = run.directory / CARD_NAME
    path.write_text(text, encoding="utf-8", newline="")
    return path


def render(run: SavedRun, existing: str | None, repo_id: str | None = None, plot: bool | None = None) -> str:
    """The card of a run, merged into the text of an existing one. ``plot``: whether `unlearning.png` goes with it; by default,
    whether it is in the folder.

    Raises:
        UploadRefusedError: a text names this machine's user.
    """
    check_texts([run.public_report, run.info.forgotten if run.info.disclose == "full" else None, run.info.tags])
    if plot is None:
        plot = (run.directory / PLOT_NAME).is_file()
    card = build_card(run.info, run.report, repo_id, plot)
    return merge(card, existing, frozenset(run.info.explicit))


def draw_plot(run: SavedRun) -> bool:
    """Draw what the disclosure allows to `unlearning.png`; a pipeline's own picture, which shows prompts, only stays with
    ``disclose="full"``. False, and no picture, without matplotlib or anything to draw."""
    path = run.directory / PLOT_NAME
    own = run.directory / ERASURE_PLOT
    if is_concept_report(run.report) and run.info.disclose == "full" and own.is_file():
        shutil.copyfile(own, path)
        return True
    path.unlink(missing_ok=True)
    try:
        plot_values(run.report, run.info.disclose).plot(path)
    except ImportError:
        logger.warning("The card has no plot: matplotlib is missing (pip install 'scissorhands_hf[demo]')")
        return False
    except ValueError:  # neither figures nor losses nor a cut
        return False
    return True


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
