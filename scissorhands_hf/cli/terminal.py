"""The quiet terminal: a line for each finished stage, a bar where someone watches, and nothing of the libraries' own.

with Terminal(verbose=args.verbose) as terminal:
    erase_concept(pipe, "dress", callback=terminal.tell, disable_tqdm=terminal.quiet)
    terminal.say("done")

It is for commands and scripts. In Python, logging, warnings and bars are the user's: the package itself changes none of them.
"""

import importlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..report.markdown import without_escapes
from ..trainer.run_progress import RunProgress


# What is counted in the stages of a run.
_UNITS = {
    "before": "pictures",
    "pictures": "pictures",
    "prompts": "prompts",
    "targets": "predictions",
    "original": "batches",
    "sensitivity": "batches",
    "training": "steps",
    "repair": "steps",
    "unlearned": "batches",
    "report": "pictures",
}
_LIBRARIES = ("accelerate", "datasets", "diffusers", "huggingface_hub", "peft", "torch", "transformers")


class Terminal:
    """
    What a command or script shows of its work, as a context manager.

    Args:
        verbose (`bool`, *optional*, defaults to `False`):
            Leave the libraries their bars, dictionaries of losses and warnings, and show this package's own notes, too.
        bars (`bool`, *optional*, defaults to `True`):
            Whether a bar is drawn, if the standard error is a terminal.
        libraries (`Collection[str]`, *optional*):
            Which are made quiet: of "transformers", "diffusers", "datasets", "huggingface_hub". They are imported for it, so
            name those that are used anyway. Default: transformers and datasets.
    """

    def __init__(
        self, verbose: bool = False, bars: bool = True, libraries: Collection[str] = ("transformers", "datasets")
    ) -> None:
        self.quiet = not verbose
        self._bars, self._libraries = bars, libraries
        self._mine = is_main_process()
        self._stack = ExitStack()
        self._bar: tqdm | None = None
        self._last: RunProgress | None = None
        # When the current stage began, and when it was last heard of.
        self._began = self._heard = time.perf_counter()

    def __enter__(self) -> "Terminal":
        logging.basicConfig(format="%(message)s")
        notes = logging.getLogger("scissorhands_hf")
        self._stack.callback(notes.setLevel, notes.level)
        notes.setLevel(logging.WARNING if self.quiet else logging.INFO)
        if self.quiet:
            for library in self._libraries:
                self._stack.enter_context(_hushed(library))
            self._stack.enter_context(warnings.catch_warnings())
            # Deprecations and the like that one library has of another; this package's own stay.
            warnings.filterwarnings("ignore", module=rf"({'|'.join(_LIBRARIES)})(\.|$)")
            self._stack.enter_context(logging_redirect_tqdm())
        self._began = self._heard = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is None:
            self._finish()
        self._close_bar()
        self._stack.close()

    def tell(self, progress: RunProgress) -> None:
        """Show how far a run is; for the `callback` of this package's functions."""
        if not self._mine:
            return
        last = self._last
        if last is not None and (progress.stage != last.stage or progress.step < last.step):
            self._finish()
        if self._last is None:
            self._began = self._heard
            self._bar = tqdm(
                total=progress.total,
                desc=progress.stage,
                unit=f" {_UNITS.get(progress.stage, 'parts')}",
                leave=False,
                dynamic_ncols=True,
                # A log file is not flooded: there each stage leaves its line alone.
                disable=not (self.quiet and self._bars and sys.stderr.isatty()),
            )
        self._last, self._heard = progress, time.perf_counter()
        self._bar.total = progress.total
        self._bar.set_postfix(_losses(progress), refresh=False)
        self._bar.update(progress.step - self._bar.n)

    def follow(self, trainer: Any, stage: str = "repair") -> None:
        """
        Show the stages of a trainer in the place of its dictionaries of losses.

        Args:
            trainer ([`~transformers.Trainer`]):
                A [`ScissorhandsTrainer`], or a stock one. Make it with `disable_tqdm=terminal.quiet`.
            stage (`str`, *optional*, defaults to `"repair"`):
                What its training loop is called.
        """
        from transformers import PrinterCallback, ProgressCallback

        from ..trainer.run_progress import Reporter
        from ..trainer.stage_callback import StageCallback

        trainer.add_callback(StageCallback(Reporter(self.tell).tell, stage))
        if self.quiet:
            trainer.remove_callback(PrinterCallback)
            trainer.remove_callback(ProgressCallback)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage that cannot tell how far it is, such as loading."""
        self._finish()
        self._heard = time.perf_counter()
        self.tell(RunProgress(name, 0, 1))
        yield
        self.tell(RunProgress(name, 1, 1))
        self._finish()

    def say(self, text: str = "") -> None:
        """Print to the standard output, after the line of the stage that is over."""
        self._finish()
        self._heard = time.perf_counter()
        if self._mine:
            print(text, flush=True)

    def show(self, report: Any) -> None:
        """Print a report as people read it: its Markdown, with names as they are rather than escaped."""
        self.say(without_escapes(report.to_markdown()))

    def _finish(self) -> None:
        """Replace the stage's bar by its line."""
        self._close_bar()
        progress, self._last = self._last, None
        if progress is not None:
            for line in stage_lines(progress, self._heard - self._began):
                print(line, file=sys.stderr, flush=True)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def stage_lines(progress: RunProgress, seconds: float) -> list[str]:
    """What is left of a stage once it is over: its last progress, in words."""
    if progress.stage == "sensitivity" and progress.trimmed is None and progress.step == progress.total:
        return ["trim: nothing (trim_ratio=0)"]
    parts = [] if progress.total == 1 else [f"{progress.step:,} {_UNITS.get(progress.stage, 'parts')}"]
    parts.append(f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s")
    parts += [f"{name} {value}" for name, value in _losses(progress).items()]
    lines = [f"{progress.stage}: {', '.join(parts)}"]
    if progress.trimmed is not None:
        lines.append(f"trim: {progress.trimmed:,} of {progress.compared:,} weights")
    return lines


def _losses(progress: RunProgress) -> dict[str, str]:
    losses = {"retain loss": progress.retain_loss, "forget loss": progress.forget_loss}
    return {name: f"{value:.3g}" for name, value in losses.items() if value is not None}


def is_main_process() -> bool:
    """Whether this process prints and saves: the only one, or the first under `accelerate launch`."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def _hushed(library: str) -> Iterator[None]:
    """Errors alone of a Hugging Face library; no bars but those of downloads, where someone watches. Afterwards as before."""
    logs: ModuleType = importlib.import_module(f"{library}.utils.logging")
    level = logs.get_verbosity()
    shows, enable, disable = _bar_switches(library)
    # Downloads are long work, and transformers' switch turns the Hub client's as well.
    shows_downloads, show_downloads, hide_downloads = _bar_switches("huggingface_hub")
    shown, downloads_shown = shows(), shows_downloads()
    logs.set_verbosity_error()
    if shown:
        disable()
    if downloads_shown and sys.stderr.isatty():
        show_downloads()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if shown:
            enable()
        if not downloads_shown:
            hide_downloads()


def _bar_switches(library: str) -> tuple[Callable[[], bool], Callable[[], None], Callable[[], None]]:
    """Whether a library draws bars, and what switches them on and off."""
    utils = importlib.import_module(f"{library}.utils")
    if library in ("transformers", "diffusers"):
        return utils.logging.is_progress_bar_enabled, utils.logging.enable_progress_bar, utils.logging.disable_progress_bar
    return lambda: not utils.are_progress_bars_disabled(), utils.enable_progress_bars, utils.disable_progress_bars
