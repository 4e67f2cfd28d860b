"""Directives whose tables are made from the code when the pages are built, so that they cannot fall behind it.

- `settings-table`: the fields that a configuration class adds, with their defaults and help texts;
- `recipes-table`: the recipes of a door;
- `figures-table`: the figures of one part of a report;
- `report-schema`: the JSON schema of reports;
- `command-help`: what `scissorhands COMMAND --help` prints.
"""

import dataclasses
import json
import subprocess
import sys
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """A directive that is replaced by Markdown."""

    optional_arguments = 8

    def run(self) -> list[nodes.Node]:
        lines = self.markdown(self.arguments).splitlines()
        parent = nodes.Element()
        self.state.nested_parse(StringList(lines, source=f"<{self.name}>"), self.content_offset, parent)
        return parent.children

    def markdown(self, arguments: list[str]) -> str:
        raise NotImplementedError


def cell(value: Any) -> str:
    """A value as code in a table's cell."""
    return f"`{value!r}`".replace("|", "\\|")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


class SettingsTable(Generated):
    """Arguments: a class of `scissorhands_hf`, and the classes whose fields are left out (those of others in full)."""

    def markdown(self, arguments: list[str]) -> str:
        kind, *without = (_find(name) for name in arguments)
        left_out = {field.name: field.default for base in without for field in dataclasses.fields(base)}
        rows = []
        for field in dataclasses.fields(kind):
            if not field.init or left_out.get(field.name, dataclasses.MISSING) == field.default:
                continue
            default = field.default_factory() if field.default is dataclasses.MISSING else field.default
            explanation = str(field.metadata["help"]).replace("|", "\\|")
            rows.append([f"`{field.name}`", cell(default), explanation])
        return table(["field", "default", "meaning"], rows)


class RecipesTable(Generated):
    """Argument: whose recipes."""

    def markdown(self, arguments: list[str]) -> str:
        from scissorhands_hf.trainer.recipes import recipes_of

        parts = []
        for name, settings in recipes_of(*arguments).items():
            parts += [f"**`{name}`**", "", table(["field", "value"], [[f"`{k}`", cell(v)] for k, v in settings.items()]), ""]
        return "\n".join(parts)


class FiguresTable(Generated):
    """Argument: "metrics", "history" or "average_gap"."""

    def markdown(self, arguments: list[str]) -> str:
        from scissorhands_hf.report import FIGURES

        rows = [
            [f"`{figure.name}`", figure.unit, f"{figure.wording}{'; ' if figure.wanted else ''}{figure.wanted}", figure.source]
            for figure in FIGURES.values()
            if figure.place in arguments
        ]
        return table(["figure", "unit", "meaning", "source"], [[text.replace("|", "\\|") for text in row] for row in rows])


class ReportSchema(Generated):
    def markdown(self, arguments: list[str]) -> str:
        from scissorhands_hf.report import report_schema

        return f"```json\n{json.dumps(report_schema(), indent=2, ensure_ascii=False)}\n```"


class CommandHelp(Generated):
    def markdown(self, arguments: list[str]) -> str:
        command = [sys.executable, "-m", "scissorhands_hf.cli", *arguments, "--help"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return f"````text\n{text}\n````"


def _find(name: str) -> type:
    import transformers

    import scissorhands_hf.report.card_options

    for module in (scissorhands_hf, transformers, scissorhands_hf.report.card_options):
        if hasattr(module, name):
            return getattr(module, name)
    raise ValueError(f"no class {name}")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("recipes-table", RecipesTable)
    app.add_directive("figures-table", FiguresTable)
    app.add_directive("report-schema", ReportSchema)
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
