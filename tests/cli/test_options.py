"""Options from dataclasses and YAML files, and what the command line says when something is wrong."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scissorhands_hf import ConceptErasureConfig, __version__
from scissorhands_hf.cli import erase_command as erase
from scissorhands_hf.cli import main
from scissorhands_hf.cli import unlearn_command as unlearn
from scissorhands_hf.cli.main import COMMANDS, build_parser
from scissorhands_hf.cli.options import UsageError, given_options
from scissorhands_hf.report.card_options import CardOptions


def parse(*words: str) -> dict[str, Any]:
    return given_options(build_parser().parse_args(words))


def run_main(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str]:
    """Exit code and standard error."""
    try:
        code = main.main(words)
    except SystemExit as leaving:
        code = leaving.code
    return code, capsys.readouterr().err


def test_what_was_not_given_is_not_there():
    assert parse("erase", "model", "dress") == {"model": "model", "concept": ["dress"]}


def test_flags_are_converted_to_the_fields_types():
    given = parse(
        "erase", "model", "dress", "ankle boot", "--output", "out", "--keep", "coat", "shirt", "--trim_ratio", "1e-2",
        "--max-steps", "7", "--projection", "false", "--reinit_target_modules", "mid_block", "re:attn[12]", "--bf16",
        "--height", "32", "--save-strategy", "no",
    )  # fmt: skip
    assert given == {
        "model": "model",
        "concept": ["dress", "ankle boot"],
        "output": "out",
        "keep": ["coat", "shirt"],
        "trim_ratio": 0.01,
        "max_steps": 7,
        "projection": False,
        "reinit_target_modules": ["mid_block", "re:attn[12]"],
        "bf16": True,
        "height": 32,
        "save_strategy": "no",
    }


def test_every_field_of_the_configuration_is_a_flag():
    args = build_parser().parse_args(["erase", "model", "dress"])
    flags = set(args.options.all_names())
    fields = {field.name for field in dataclasses.fields(ConceptErasureConfig) if field.init}
    assert fields - flags == {"output_dir", "debug", "applied_recipe"}


def test_flags_override_the_file(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    # YAML reads 1e-4 as text; null stands for left out.
    lines = ("learning_rate: 1e-4", "max-steps: 9", "keep: [coat, ankle boot]", "bf16: true", "projection: no", "anchor: null")
    file.write_text("\n".join([*lines, "overwrite: yes", "save_strategy: no"]))
    assert parse("erase", "model", "dress", "--config", str(file), "--max_steps", "3") == {
        "model": "model",
        "concept": ["dress"],
        "learning_rate": 1e-4,
        "max_steps": 3,
        "keep": ["coat", "ankle boot"],
        "bf16": True,
        "projection": False,
        "overwrite": True,
        "save_strategy": "no",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trim_ration: 0.1", "'trim_ration' is no option; did you mean 'trim_ratio'"),
        ("model: other", "'model' is no option"),
        ("- a\n- b", "not a list"),
        ("a: [", "is no YAML"),
        ("config: other.yaml", "cannot name another"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, text: str, message: str):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        parse("erase", "model", "dress", "--config", str(file))


def test_missing_file():
    with pytest.raises(UsageError, match="no such file"):
        parse("erase", "model", "dress", "--config", "nowhere.yaml")


def test_a_value_of_the_wrong_kind_in_the_file_names_it(tmp_path: Path, capsys: pytest.CaptureFixture):
    file = tmp_path / "settings.yaml"
    file.write_text("max_steps: many")
    code, errors = run_main(capsys, "erase", "model", "dress", "--output", "out", "--config", str(file))
    assert code == 2 and "settings.yaml" in errors and "invalid int value: 'many'" in errors and errors.count("\n") == 1


def test_each_command_is_listed_with_its_help(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as leaving:
        main.main(["--help"])
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("command", ["erase", "unlearn"])
def test_help_shows_the_method_and_hides_the_trainers_own_options(command: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        main.main([command, "--help"])
    shown = capsys.readouterr().out
    assert "--trim_ratio" in shown and "--config FILE" in shown and "--learning_rate" in shown
    assert "--dataloader_num_workers" not in shown
    assert shown.index("--output") < shown.index("--trim_ratio")


def test_version(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        main.main(["--version"])
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["forget"], "invalid choice: 'forget'"),
        (["erase", "model"], "required: CONCEPT"),
        (["erase", "model", "dress", "--trim_ratio", "much"], "invalid float value: 'much'"),
        (["erase", "model", "dress", "--trim", "0.1"], "unrecognized arguments"),
        (["erase", "model", "dress"], "--output is missing"),
        (["unlearn", "model", "--output", "out"], "--dataset is missing"),
    ],
)
def test_usage_errors_exit_with_2_and_name_what_is_wrong(words: list[str], message: str, capsys: pytest.CaptureFixture):
    code, errors = run_main(capsys, *words)
    assert code == 2 and message in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("trim_ratio=2 must\nlie between"), 2, "error: trim_ratio=2 must lie between\n"),
        (FileNotFoundError(2, "No such file", "x.yaml"), 2, "No such file"),
        (OSError("nowhere is not a model"), 2, "nowhere is not a model"),
        (OSError(28, "No space left on device"), 1, "OSError: [Errno 28] No space left"),
        (RuntimeError("NaN"), 1, "error: RuntimeError: NaN\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_one_line_and_a_code(error, code, message, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(erase, "run", fail)
    got, errors = run_main(capsys, "erase", "model", "dress", "--output", "out")
    assert got == code and message in errors and errors.count("\n") == 1
    if code != 130:
        for words in (["--debug", "erase", "model", "dress"], ["erase", "model", "dress", "--debug"]):
            got, errors = run_main(capsys, *words)
            assert got == code and "Traceback" in errors


@pytest.mark.parametrize("command", [["erase", "nowhere/at-all", "dress"], ["unlearn", "nowhere/at-all", "--dataset", "data"]])
def test_what_the_card_is_told_is_checked_before_anything_is_loaded(command: list[str], tmp_path, capsys):
    code, errors = run_main(capsys, *command, "--output", str(tmp_path / "out"), "--license", "No Such!")
    assert code == 2 and "license='No Such!' is not a licence identifier" in errors


def test_a_commands_own_code_is_passed_on(monkeypatch):
    monkeypatch.setattr(unlearn, "run", lambda args: 3)
    assert main.main(["unlearn", "model"]) == 3


@pytest.mark.parametrize("command", [["erase", "model", "dress"], ["unlearn", "model", "--dataset", "data"]])
def test_output_is_checked_before_anything_is_loaded(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    code, errors = run_main(capsys, *command, "--output", str(tmp_path / "full"))
    assert code == 2 and "is not empty" in errors and "--overwrite" in errors
    code, errors = run_main(capsys, *command, "--output", str(tmp_path / "full" / "file"))
    assert code == 2 and "is a file" in errors


def test_flags_of_training_arguments_are_known_though_not_listed():
    words = ("--learning_rate", "1e-5", "erase-me", "dress", "--weight-decay", "0.1", "--keep", "coat")
    assert parse("erase", *words) == {
        "model": "erase-me", "concept": ["dress"], "learning_rate": 1e-5, "weight_decay": 0.1, "keep": ["coat"]
    }  # fmt: skip


def test_a_choice_and_a_switch_that_do_not_exist(capsys: pytest.CaptureFixture):
    code, errors = run_main(capsys, "unlearn", "model", "--threshold_scope", "some")
    assert code == 2 and "invalid choice: 'some'" in errors
    code, errors = run_main(capsys, "unlearn", "model", "--projection", "perhaps")
    assert code == 2 and "'perhaps' is neither yes nor no" in errors


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "audit"])
def test_every_field_of_the_card_is_a_flag_of_every_command_that_writes_one(command: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        main.main([command, "--help"])
    shown = capsys.readouterr().out
    assert all(f"--{field.name} " in shown for field in dataclasses.fields(CardOptions))


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)], ids=lambda words: " ".join(words) or "all")
def test_help_imports_neither_torch_nor_transformers(words: list[str]):
    code = (
        "import atexit, sys\n"
        "from scissorhands_hf.cli.main import main\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'datasets', 'huggingface_hub', 'numpy'}\n"
        "atexit.register(lambda: print('imported:', sorted(heavy & sys.modules.keys())))\n"
        f"main({[*words, '--help']!r})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: scissorhands" in result.stdout and result.stdout.endswith("imported: []\n")
