"""The part of `ScissorhandsTrainer` that saves what a card needs, and pushes the finished model."""

import logging
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import CommitInfo, HfApi
from transformers import PreTrainedModel

from ..hub.connection import Connection, UploadRefusedError
from ..hub.folder import file_stamps, remove_unwritten, weight_digests, write_fp16_copies
from ..hub.push import Destination, open_repository, push_run
from ..hub.readme import local_card_values, write_card
from ..hub.run import CardInfo, SavedRun, hub_id_of, model_info
from ..hub.verify import check_choice
from ..report.unlearning_report import REPORT_NAME, UnlearningReport
from .scissorhands_config import ScissorhandsConfig


logger = logging.getLogger(__name__)

_NOT_FIGURES = (
    "runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "jit_compilation_time", "epoch",
)  # fmt: skip


class Published(Protocol):
    """
    What [`PublishingMixin`] needs of the trainer that it is a part of. All but the last four are a
    [`~transformers.Trainer`]'s own, as are the methods that the mixin extends: `evaluate`, `save_model`, `init_hf_repo`,
    `create_model_card` and `push_to_hub`.
    """

    args: ScissorhandsConfig
    model: Any
    accelerator: Any
    callback_handler: Any
    state: Any
    control: Any
    train_dataset: Any
    eval_dataset: Any
    is_in_train: bool
    hub_model_id: str | None

    forget_dataset: Any
    trim_report: dict[str, Any] | None
    """Of the last `train()`; None before it."""

    def report(self) -> UnlearningReport:
        """What is known of the last `train()`."""

    def probe_batch(self) -> dict[str, Any]:
        """A small batch of retain examples, on the model's device, to compare outputs on."""


class PublishingMixin:
    """Saving, cards and pushes of a trainer; to be named before it: `class MyTrainer(PublishingMixin, Trainer)`. Trainer's own
    `push_to_hub` would upload training_args.bin, with the token in it, and a card without a measured figure.

    What it needs of its trainer is listed in [`Published`]."""

    def _init_publishing(self) -> None:
        """Before `Trainer.__init__`, which may call [`init_hf_repo`]."""
        self._figures: dict[str, dict[str, float]] = {}
        # One for all pushes in the background: each HfApi has one worker thread, and two would write the same folder at once.
        self._background = HfApi()

    # ---- Figures ----

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """As Trainer's. What is measured outside `train()` is remembered for the report and the card, as figures of the
        "original" before training and of the "unlearned" model after it."""
        figures = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if not self.is_in_train and eval_dataset is None and metric_key_prefix == "eval":
            model = "original" if self.trim_report is None else "unlearned"
            names = list(self.eval_dataset) if isinstance(self.eval_dataset, dict) else []
            self._figures[model] = _named_figures(figures, names)
        return figures

    def _forget_figures(self) -> None:
        """At the start of `train()`: what was measured of the weights as they are becomes the original's."""
        measured = self._figures.get("unlearned" if self.trim_report is not None else "original")
        self._figures = {"original": measured} if measured else {}

    def _set_sizes(self) -> dict[str, int]:
        """Examples of each set that has a length: "forget", "retain", and "eval:NAME"."""
        sets = {"forget": self.forget_dataset, "retain": self.train_dataset}
        evaluated = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"evaluation": self.eval_dataset}
        sets.update({f"eval:{name}": dataset for name, dataset in evaluated.items()})
        return {name: len(dataset) for name, dataset in sets.items() if hasattr(dataset, "__len__")}

    # ---- Saving ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's, and beside the model what `scissorhands card` and `scissorhands push` need. The token is not in
        training_args.bin, and weight files of an earlier save that `from_pretrained` might read instead are deleted."""
        # `_internal_call` is how Trainer (transformers 5.23) tells its own saves, such as of checkpoints, from the user's.
        folder = Path(output_dir or self.args.output_dir)
        stamps = file_stamps(folder) if self.args.should_save else {}
        token, push = self.args.hub_token, self.args.push_to_hub
        # Trainer pickles its arguments, and pushes from within save_model, before what follows here is written.
        self.args.hub_token, self.args.push_to_hub = None, False
        try:
            super().save_model(output_dir, _internal_call=_internal_call)
        finally:
            self.args.hub_token, self.args.push_to_hub = token, push
        if self.args.should_save:
            stale = remove_unwritten(folder, stamps)
            if stale:
                logger.info("Deleted weights of an earlier save: %s", ", ".join(stale))
            if not _internal_call and self.trim_report is not None:
                self._save_run(folder)
        # While it is trained the model is half unlearned, and such weights are not published.
        if push and not _internal_call and not self.is_in_train:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_run(self, folder: Path) -> SavedRun | None:
        """Beside a saved model, what its card needs: the report, with the figures measured since `train()`, and the options.
        None for models that stock transformers cannot load."""
        if not isinstance(self._plain_model(), PreTrainedModel):
            return None
        info, report = self.card_info(folder), self._merged_report()
        info.weights = weight_digests(folder, info.library)
        info.save(folder)
        report.save(folder)
        return SavedRun(folder, info, report.to_dict())

    def _plain_model(self) -> Any:
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def card_info(self, folder: str | Path) -> CardInfo:
        """Names and choices for the card: from the model, its base model's card on this disk, and `args`."""
        model, args = self._plain_model(), self.args
        info = model_info(type(model).__name__, Path(folder))
        source = getattr(model, "name_or_path", None)
        info.base_model = hub_id_of(source)
        for key, value in local_card_values(source).items():
            setattr(info, key, value)
        tags = [*(args.tags or ()), *(getattr(model, "model_tags", None) or ())]
        info.update(**{**args.card_options(), "tags": tags or None})
        return info

    def _merged_report(self) -> UnlearningReport:
        """The report of this run. Figures that the user saved into output_dir stay, those of `evaluate()` are added."""
        report = self.report()
        saved = Path(self.args.output_dir) / REPORT_NAME
        if saved.is_file():
            earlier = UnlearningReport.load(saved)
            if earlier.trim == report.trim and earlier.history == report.history:
                for model, figures in earlier.metrics.items():
                    report.metrics[model] = {**report.metrics.get(model, {}), **figures}
                report.notes = list(dict.fromkeys([*earlier.notes, *report.notes]))
                report.seconds = {**earlier.seconds, **report.seconds}
        return report

    # ---- The Hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create or find the repository; called at construction with `push_to_hub=True`, so that a wrong token is known
        before the run.

        Raises:
            HubPushError: with what to do.
        """
        if not self.is_world_process_zero():
            return
        destination = self._destination(private=private)
        self.hub_model_id = open_repository(Connection(token or self.args.hub_token, repo_id=destination.repo_id), destination)

    def _destination(self, **changes: Any) -> Destination:
        args = self.args
        values = {
            "repo_id": self.hub_model_id or args.hub_model_id or Path(args.output_dir).absolute().name,
            "revision": args.hub_revision,
            "private": args.hub_private_repo,
        }
        return Destination(**{**values, **{key: value for key, value in changes.items() if value is not None}})

    def create_model_card(self, **options: Any) -> None:
        """
        Write the card into `output_dir`; see `scissorhands_hf.hub.write_card`. `save_model()` must have been called.

        Args:
            options (*optional*):
                Fields of [`~scissorhands_hf.report.CardOptions`]; Trainer's `finetuned_from` and `dataset` are other names for
                two of them.
        """
        if self.is_world_process_zero():
            write_card(self.args.output_dir, self.hub_model_id, **_card_options(options))

    def push_to_hub(
        self,
        commit_message: str | None = "Upload unlearned model",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        create_pr: bool = False,
        report: UnlearningReport | None = None,
        max_shard_size: int | str | None = None,
        fp16_variant: bool = False,
        check: str = "full",
        **options: Any,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Save model, report and card to `output_dir` and push what may be seen of it to `args.hub_model_id`.

        Only configurations, tokenizer or processor, safetensors weights, the card with its plot, and the part of the report
        that `args.disclose` allows are uploaded, after the folder was reloaded with stock transformers and compared with the
        live model.

        Args:
            commit_message (`str`, *optional*, defaults to `"Upload unlearned model"`):
                First line of the commit.
            blocking (`bool`, *optional*, defaults to `True`):
                False to return a future.
            token (`str`, *optional*):
                Access token; None for `args.hub_token`, else the stored one.
            revision (`str`, *optional*):
                Branch, created if need be; None for `args.hub_revision`.
            private (`bool`, *optional*):
                None for `args.hub_private_repo`.
            create_pr (`bool`, *optional*, defaults to `False`):
                Open a pull request.
            report (`UnlearningReport`, *optional*):
                With figures that you measured; None for the one in `output_dir`, with those of `evaluate()`.
            max_shard_size (`int` or `str`, *optional*):
                Split larger weights, as "5GB".
            fp16_variant (`bool`, *optional*, defaults to `False`):
                Also upload half-precision weights, as `variant="fp16"` loads them.
            check (`str`, *optional*, defaults to `"full"`):
                "full" compares weights and outputs, "weights" the weights alone; both need the memory of a second model.
            options (*optional*):
                See [`create_model_card`].

        Returns:
            The commit, or its future; None on other processes than the first.

        Raises:
            UploadRefusedError: the model cannot be loaded with stock transformers, or a file would give away something private.
            HubPushError: the Hub or the line would not have it. `output_dir` is complete, and the message says how to go on.
        """
        check_choice(check)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.trim_report is None:
            raise ValueError("nothing was unlearned yet: call trainer.train() before trainer.push_to_hub()")
        model = self._plain_model()
        if not isinstance(model, PreTrainedModel):
            raise UploadRefusedError(
                f"the model is a {type(model).__name__}, which stock transformers cannot load; only PreTrainedModels are pushed"
            )
        folder = Path(self.args.output_dir)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        if max_shard_size is not None:
            stamps = file_stamps(folder)
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            remove_unwritten(folder, stamps)
        if report is not None:
            report.save(folder)
        run = self._save_run(folder)
        if fp16_variant:
            run.info.fp16_variant = write_fp16_copies(folder)
        destination = self._destination(
            commit_message=commit_message, revision=revision, private=private, create_pr=create_pr or None
        )
        arguments = {"token": token or self.args.hub_token, "check": check, "live": model, "probe": self.probe_batch()}
        if not blocking:
            return self._background.run_as_future(push_run, run, destination, **arguments, **_card_options(options))
        commit = push_run(run, destination, **arguments, **_card_options(options))
        self.hub_model_id = run.info.repo_id
        return commit


def _named_figures(figures: dict[str, float], sets: list[str]) -> dict[str, float]:
    """ "eval_forget_accuracy" becomes "forget accuracy"; times and counters are left out."""
    named = {}
    for key, value in figures.items():
        name = key.removeprefix("eval_")
        part = max((part for part in sets if name.startswith(f"{part}_")), key=len, default=None)
        metric = name.removeprefix(f"{part}_") if part else name
        if isinstance(value, (int, float)) and metric not in _NOT_FIGURES:
            named[f"{part} {metric}" if part else metric] = float(value)
    return named


def _card_options(values: dict[str, Any]) -> dict[str, Any]:
    """Trainer's names for the card's fields, translated."""
    names = {"finetuned_from": "base_model", "dataset": "retain_datasets"}
    return {names.get(name, name): value for name, value in values.items() if name != "model_name"}
