"""What a card can be told is listed in one class, and nowhere again."""

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from scissorhands_hf.report import CardOptions


REPOSITORY = Path(__file__).parents[2]
NAMES = {item.name for item in fields(CardOptions)}
# Where the metadata of a card is written, and what is inherited from another card: the places that show the fields.
SHOWN = {("scissorhands_hf/hub/card.py", "ModelCardData")}


def lists(path: Path) -> list[set[str]]:
    """The names of fields that each signature, call, class body and literal of a file has side by side."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.arguments):
            names = [argument.arg for argument in (*node.posonlyargs, *node.args, *node.kwonlyargs)]
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", "")
            if (path.relative_to(REPOSITORY).as_posix(), name) in SHOWN:
                continue
            names = [keyword.arg for keyword in node.keywords]
        elif isinstance(node, ast.ClassDef):
            names = [entry.target.id for entry in node.body if isinstance(entry, ast.AnnAssign)]
        elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            names = [entry.value for entry in node.elts if isinstance(entry, ast.Constant)]
        elif isinstance(node, ast.Dict):
            names = [entry.value for entry in node.keys if isinstance(entry, ast.Constant)]
        elif isinstance(node, ast.FunctionDef):  # add_argument("--license"), one after the other
            calls = [call for call in ast.walk(node) if isinstance(call, ast.Call) and call.args]
            words = [call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)]
            names = [word.removeprefix("--") for word in words if isinstance(word, str)]
        else:
            continue
        found.append(NAMES & {name for name in names if isinstance(name, str)})
    return found


def test_no_other_file_lists_the_fields() -> None:
    assert len(NAMES) >= 8
    own = REPOSITORY / "scissorhands_hf" / "report" / "card_options.py"
    assert max(map(len, lists(own))) == len(NAMES)
    files = [*(REPOSITORY / "scissorhands_hf").rglob("*.py"), *(REPOSITORY / "spaces_demo").rglob("*.py")]
    assert len(files) > 50
    again = {str(path): found for path in files if path != own for found in lists(path) if len(found) > 2}
    assert not again


EVERYWHERE = """
import json, sys
from pathlib import Path
from scissorhands_hf import ScissorhandsConfig
from scissorhands_hf.cli.main import main
from scissorhands_hf.hub import save_pipeline, write_card
from scissorhands_hf.report import UnlearningReport
from spaces_demo.publish import DISCLOSURES, check_choices

work, pipeline = Path(sys.argv[1]), sys.argv[2]
config = ScissorhandsConfig(output_dir=str(work / "out"), use_cpu=True, contact="config@x")
folder = work / "run"
UnlearningReport().save(folder)
(folder / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
written = write_card(folder, contact="card at x").read_text()
assert main(["card", str(folder), "--contact", "command at x"]) == 0
from diffusers import DiffusionPipeline
from scissorhands_hf import ConceptErasureReport
pipe = DiffusionPipeline.from_pretrained(pipeline)
pipe.erasure_reports = [ConceptErasureReport(concepts=["dress"])]
saved = save_pipeline(pipe, work / "pipe", contact="pipeline at x").read_text()
chosen = check_choices("me/x", next(iter(DISCLOSURES)), {"contact": "space at x"}).card
print(json.dumps([config.card_options()["contact"], written, (folder / "README.md").read_text(), saved, chosen["contact"]]))
"""


@pytest.mark.slow
def test_a_new_field_is_one_edit_and_its_place_in_the_template(tmp_path: Path) -> None:
    """In a copy of the package: the configuration, the command, `write_card`, `save_pipeline` and the Space then know it."""
    copy = tmp_path / "copy"
    hidden = shutil.ignore_patterns("__pycache__", "fashion_*", "*.safetensors")
    for name in ("scissorhands_hf", "spaces_demo"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=hidden)
    options, template = copy / "scissorhands_hf/report/card_options.py", copy / "scissorhands_hf/templates/card.md"
    text = options.read_text()
    anchor = "    pictures: str = field("
    assert text.count(anchor) == 1
    field = '    contact: str | None = field(default=None, metadata={"help": "whom to ask"})\n'
    options.write_text(text.replace(anchor, field + anchor))
    template.write_text(template.read_text().replace("## Citation", "Ask {{ options.contact }}.\n\n## Citation"))
    result = subprocess.run(
        [sys.executable, "-c", EVERYWHERE, str(tmp_path), str(REPOSITORY / "spaces_demo" / "fashion_pipeline")],
        env={**os.environ, "PYTHONPATH": str(copy)}, cwd=copy, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    config, card, command, pipeline, space = json.loads(result.stdout.splitlines()[-1])
    assert (config, space) == ("config@x", "space at x")
    assert "Ask card at x." in card and "Ask command at x." in command and "Ask pipeline at x." in pipeline
