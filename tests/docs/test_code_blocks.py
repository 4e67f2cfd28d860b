"""What the documents tell their readers to type: Python blocks are run, command lines are parsed by what they start."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hub_server
import pytest
from markdown_it import MarkdownIt

from scissorhands_hf.cli.main import build_parser


REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]


def blocks(document: Path, language: str) -> list[str]:
    tokens = MarkdownIt("commonmark").parse(document.read_text(encoding="utf-8"))
    return [token.content for token in tokens if token.type == "fence" and token.info.strip() == language]


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every command of the shell blocks, as words, with the name of its document."""
    for document in DOCUMENTS:
        for block in blocks(document, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield document.name, words


COMMANDS = list(command_lines())
WITH_CODE = [document for document in DOCUMENTS if blocks(document, "python")]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.HubServer]:
    """A Hub on loopback, where the reader of the documents is called "me"."""
    monkeypatch.setitem(hub_server.USERS, hub_server.WRITE_TOKEN, ("me", "write"))
    server = hub_server.HubServer()
    yield server
    server.close()


@pytest.fixture
def clone(hub: hub_server.HubServer, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs Python as in the root of a clone: a folder that has what a clone has, and takes what is written."""
    for name in ("spaces_demo", "examples"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment = {
        **kept,
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": hub_server.WRITE_TOKEN,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)]),
    }

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("document", WITH_CODE, ids=lambda path: path.name)
def test_python_blocks_run_as_they_stand(document: Path, clone: Callable[..., subprocess.CompletedProcess]):
    options = ["-q", "-p", "document_blocks", "-p", "no:cacheprovider", "--durations=5", f"--rootdir={REPOSITORY}"]
    finished = clone("-m", "pytest", *options, str(document))
    assert finished.returncode == 0, f"{finished.stdout[-6000:]}\n{finished.stderr[-2000:]}"
    run = re.search(r"(\d+) passed", finished.stdout)
    assert run and int(run[1]) == len(blocks(document, "python")), finished.stdout[-2000:]
    assert not re.search(r"skipped|failed", finished.stdout.splitlines()[-1])


@pytest.mark.slow
def test_commands_on_the_shipped_pipeline_run_one_after_the_other(
    clone: Callable[..., subprocess.CompletedProcess], hub: hub_server.HubServer
):
    """Those of the page on the command line, as they stand but for the length of the erasure."""
    quick = {
        "erase": shlex.split("--max_steps 4 --evaluations 1 --pictures_per_concept 8 --retain_pictures 16 --report_images 2"),
        "audit": shlex.split("--probes words img2img --count 4 --num_inference_steps 5"),
    }
    done = []
    for document, words in COMMANDS:
        if document == "command_line.md" and {"spaces_demo/fashion_pipeline", "out/no-dress"} & set(words):
            finished = clone("-m", "scissorhands_hf.cli", *words[1:], *quick.get(words[1], []))
            assert finished.returncode == 0, f"{shlex.join(words)}\n{finished.stdout[-2000:]}{finished.stderr[-4000:]}"
            done.append(words[1])
    assert done == ["erase", "audit", "card", "push"]
    assert {"README.md", "model_index.json"} <= set(hub.repositories["me/no-dress"].files())


@pytest.mark.parametrize(("document", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_command_lines_are_understood(document: str, words: list[str], capsys: pytest.CaptureFixture):
    if words[:2] == ["accelerate", "launch"]:
        assert words[2:4] == ["-m", "scissorhands_hf.cli"] or words[2].startswith("examples/"), words
        words = ["scissorhands", *words[4:]] if words[2] == "-m" else ["python", *words[2:]]
    program, *arguments = words
    if program == "scissorhands":
        build_parser().parse_args(arguments)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif program == "python":
        script, *options = arguments
        assert (REPOSITORY / script).is_file()
        understands(script, options)
    else:
        assert program in ("pip", "git", "cd"), f"{document}: nothing here checks {shlex.join(words)}"


def understands(script: str, options: list[str]) -> None:
    """That the script's own parser takes the options: it is started with them and --help, which reads no further."""
    finished = subprocess.run(
        [sys.executable, "-c", PARSE_ONLY, script, *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert finished.returncode == 0 and "PARSED" in finished.stdout, f"{finished.stdout[-1000:]}{finished.stderr[-2000:]}"


# Runs a script as Python does until its command line is parsed, and ends there.
PARSE_ONLY = """
import argparse, os, runpy, sys
script, sys.argv = sys.argv[1], sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.abspath(script))
parse = argparse.ArgumentParser.parse_known_args
def parsed(*arguments, **options):
    result = parse(*arguments, **options)
    assert not result[1], result[1]
    print("PARSED", flush=True)
    os._exit(0)
argparse.ArgumentParser.parse_known_args = parsed
runpy.run_path(script, run_name="__main__")
"""
