"""What a command or script shows: a line for each stage, a bar for whoever watches, and the libraries' own when asked for."""

import io
import logging
import sys
import warnings
from collections.abc import Iterator

import datasets
import huggingface_hub
import pytest
import tiny_models
import transformers
from tiny_data import retain_and_forget
from transformers import PrinterCallback, ProgressCallback

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.cli.terminal import Terminal, stage_lines
from scissorhands_hf.report.markdown import code, table
from scissorhands_hf.trainer.run_progress import RunProgress


class Screen(io.StringIO):
    """A standard error that someone watches."""

    def isatty(self) -> bool:
        return True


def run(terminal: Terminal) -> None:
    with terminal:
        for step in range(3):
            terminal.tell(RunProgress("pictures", step, 2))
        terminal.tell(RunProgress("repair", 1, 2))
        terminal.tell(RunProgress("repair", 2, 2, retain_loss=0.123456, forget_loss=1.9))
        terminal.say("done")


@pytest.mark.parametrize(
    ("progress", "seconds", "lines"),
    [
        (RunProgress("load", 1, 1), 2.04, ["load: 2.0 s"]),
        (RunProgress("targets", 1536, 1536), 123.4, ["targets: 1,536 predictions, 123 s"]),
        (
            RunProgress("sensitivity", 16, 16, trimmed=1234, compared=700_000),
            3.1,
            ["sensitivity: 16 batches, 3.1 s", "trim: 1,234 of 700,000 weights"],
        ),
        (RunProgress("sensitivity", 1, 1), 0.0, ["trim: nothing (trim_ratio=0)"]),
        (
            RunProgress("repair", 150, 150, retain_loss=0.12, forget_loss=1.9),
            30.0,
            ["repair: 150 steps, 30.0 s, retain loss 0.12, forget loss 1.9"],
        ),
    ],
)
def test_the_line_of_a_stage(progress: RunProgress, seconds: float, lines: list[str]):
    assert stage_lines(progress, seconds) == lines


def test_a_log_gets_one_line_a_stage_and_no_bar(capsys: pytest.CaptureFixture):
    run(Terminal())
    output, errors = capsys.readouterr()
    first, second = errors.splitlines()
    assert first.startswith("pictures: 2 pictures, ") and second.startswith("repair: 2 steps, ")
    assert second.endswith("retain loss 0.123, forget loss 1.9") and "\r" not in errors
    assert output == "done\n"


@pytest.mark.parametrize("settings", [{}, {"bars": False}, {"verbose": True}])
def test_a_bar_for_whoever_watches_leaves_its_line(settings: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    run(Terminal(**settings))
    shown = sys.stderr.getvalue()
    # With --verbose the libraries draw their own.
    assert ("pictures:   0%|" in shown) == (not settings)
    assert [line.rpartition("\r")[2].split(",")[0] for line in shown.strip().split("\n")] == [
        "pictures: 2 pictures",
        "repair: 2 steps",
    ]


def test_a_stage_that_begins_again_has_a_line_of_its_own(capsys: pytest.CaptureFixture):
    with Terminal() as terminal:
        for step in (1, 2, 1, 2):
            terminal.tell(RunProgress("training", step, 2))
    assert capsys.readouterr().err.count("training: 2 steps") == 2


def test_what_fails_leaves_no_line_of_a_finished_stage(capsys: pytest.CaptureFixture):
    with pytest.raises(KeyboardInterrupt), Terminal() as terminal:
        terminal.tell(RunProgress("pictures", 1, 2))
        raise KeyboardInterrupt
    with pytest.raises(ValueError), Terminal() as terminal, terminal.stage("load"):
        raise ValueError
    assert capsys.readouterr().err == ""


def test_other_processes_are_silent(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    run(Terminal())
    assert capsys.readouterr() == ("", "")


def state() -> tuple:
    return (
        transformers.utils.logging.get_verbosity(),
        transformers.utils.logging.is_progress_bar_enabled(),
        datasets.utils.logging.get_verbosity(),
        datasets.are_progress_bars_disabled(),
        huggingface_hub.utils.are_progress_bars_disabled(),
        logging.getLogger("scissorhands_hf").level,
        list(warnings.filters),
    )


def show_bars(of_transformers: bool, of_datasets: bool, of_downloads: bool) -> None:
    logs, hub = transformers.utils.logging, huggingface_hub.utils
    # transformers' switch turns the Hub client's as well, so that comes last.
    (logs.enable_progress_bar if of_transformers else logs.disable_progress_bar)()
    (datasets.enable_progress_bars if of_datasets else datasets.disable_progress_bars)()
    (hub.enable_progress_bars if of_downloads else hub.disable_progress_bars)()


@pytest.fixture(params=[True, False], ids=["bars", "no bars"])
def shown(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether all bars are shown or none is, whatever ran in this process before."""
    _, of_transformers, _, no_datasets, no_downloads = state()[:5]
    show_bars(*[request.param] * 3)
    yield request.param
    show_bars(of_transformers, not no_datasets, not no_downloads)


def test_the_libraries_are_quiet_within_and_as_before_afterwards(shown: bool):
    before = state()
    with Terminal(libraries=["transformers", "datasets", "huggingface_hub"]):
        assert state()[:5] == (logging.ERROR, False, logging.ERROR, True, True)
        assert not logging.getLogger("scissorhands_hf").isEnabledFor(logging.INFO)
    assert state() == before
    with Terminal(verbose=True):
        assert state()[:5] == before[:5] and logging.getLogger("scissorhands_hf").isEnabledFor(logging.INFO)
    assert state() == before


@pytest.mark.parametrize("libraries", [["huggingface_hub"], ["transformers"], ["huggingface_hub", "transformers"]])
def test_downloads_keep_their_bar_where_someone_watches(libraries: list[str], shown: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    with Terminal(libraries=libraries):
        assert huggingface_hub.utils.are_progress_bars_disabled() != shown


def test_downloads_without_a_bar_get_none_from_transformers(shown: bool):
    huggingface_hub.utils.disable_progress_bars()
    before = state()
    with Terminal(libraries=["transformers"]):
        assert huggingface_hub.utils.are_progress_bars_disabled()
    assert state() == before


def test_warnings_of_libraries_are_kept_back_and_those_of_this_package_shown(capsys: pytest.CaptureFixture):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Terminal():
            warnings.warn_explicit("theirs", FutureWarning, "file.py", 1, module="torch.utils.data")
            warnings.warn_explicit("ours", FutureWarning, "file.py", 1, module="scissorhands_hf.trainer")
    # The record is of the outer context: what the inner one lets through is printed or recorded there.
    shown = [str(warning.message) for warning in caught] or capsys.readouterr().err
    assert "ours" in shown and "theirs" not in shown


@pytest.mark.parametrize("verbose", [False, True])
def test_a_followed_trainer_tells_stages_and_prints_dictionaries_only_when_asked(verbose: bool, config, capsys, caplog):
    with Terminal(verbose) as terminal:
        model, retain, forget = retain_and_forget(tiny_models.tiny_resnet)
        trainer = ScissorhandsTrainer(
            model=model, args=config(disable_tqdm=terminal.quiet), train_dataset=retain, forget_dataset=forget
        )
        terminal.follow(trainer)
        kinds = {type(callback) for callback in trainer.callback_handler.callbacks}
        assert (ProgressCallback in kinds) == verbose and PrinterCallback not in kinds
        trainer.train()
    output, errors = capsys.readouterr()
    assert "sensitivity: 3 batches" in errors and "repair: 5 steps" in errors and "trim: " in errors
    assert ("'loss'" in output + errors) == verbose
    assert ("Scissorhands settings in effect" in caplog.text) == verbose


def test_reports_are_shown_without_the_escapes_of_their_markdown(capsys: pytest.CaptureFixture):
    """What is escaped for a page stands as it was written; code spans, tables and emphasis stay."""
    names = [
        "fashion_judge",
        "a*b [c](d) <e> | f & ~g",
        "https://example.org",
        "1. first",
        "www.example.org, C:\\temp_x",
        "50 %",
    ]
    code_span = "`a\\_b &amp; c`"

    class Report:
        def to_markdown(self) -> str:
            return (
                table(["name", "n"], [[name, "1"] for name in names]) + f"\n{code('x|y', in_table=True)} {code_span} **bold**"
            )

    with Terminal() as terminal:
        terminal.show(Report())
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:-1] == [f"| {name} | 1 |" for name in names]
    assert lines[-1] == f"`x|y` {code_span} **bold**"
