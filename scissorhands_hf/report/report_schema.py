"""The JSON schema of `unlearning_report.json`, made from the classes of reports and the registry of figures."""

import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from . import concept_report, language_report
from .figures import FIGURES, Figure
from .unlearning_report import UnlearningReport


def report_schema() -> dict[str, Any]:
    """
    The schema (draft 2020-12) of what `report.save()` writes and of the part of it that a push publishes.

    It describes every figure of the registry; figures of other names are allowed, as numbers.

    Returns:
        `dict`: JSON-ready.
    """
    kinds = [UnlearningReport, *UnlearningReport.__subclasses__()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "unlearning_report.json of scissorhands_hf",
        "type": "object",
        "required": ["report"],
        "properties": {"report": {"enum": [kind.kind for kind in kinds]}},
        "oneOf": [_report(kind) for kind in kinds],
    }


def _report(kind: type[UnlearningReport]) -> dict[str, Any]:
    # Annotations of the class may name types that are imported for type checkers alone; pictures are not saved.
    hints = typing.get_type_hints(kind, {**vars(concept_report), **vars(language_report), "Image": object})
    properties = {item.name: _schema(hints[item.name]) for item in fields(kind) if item.name != "pictures"}
    properties["metrics"]["additionalProperties"]["properties"] = _figures("metrics")
    properties["history"]["items"]["properties"] = _figures("history")
    (gap,) = _figures("average_gap").values()
    if kind is concept_report.ConceptErasureReport:
        # Of a published report, what was erased before it, oldest first.
        properties["earlier"] = {"type": "array", "items": {"type": "object"}}
    return {
        "properties": {
            "report": {"const": kind.kind},
            **properties,
            "average_gap": {"type": "object", "additionalProperties": gap},
        },
        "additionalProperties": False,
    }


def _figures(place: str) -> dict[str, Any]:
    return {figure.name: _figure(figure) for figure in FIGURES.values() if figure.place == place}


def _figure(figure: Figure) -> dict[str, Any]:
    wanted = f"; {figure.wanted}" if figure.wanted else ""
    schema: dict[str, Any] = {
        # A figure that came out as no finite number is null.
        "type": ["number", "null"],
        "description": f"{figure.wording}{wanted} (unit: {figure.unit}; over: {figure.over}; source: {figure.source})",
    }
    most = {"%": 100, "0 to 1": 1, "area under the curve": 1, "p-value": 1}.get(figure.unit)
    return schema if most is None else schema | {"minimum": 0, "maximum": most}


def _schema(hint: Any) -> dict[str, Any]:
    """Of a type as dataclasses are annotated with."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        needed = [item.name for item in fields(hint) if item.default is MISSING and item.default_factory is MISSING]
        hints = typing.get_type_hints(hint)
        return {
            "type": "object",
            "properties": {item.name: _schema(hints[item.name]) for item in fields(hint)},
            "required": needed,
            "additionalProperties": False,
        }
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(part) for part in arguments]}
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if hint is Any:
        return {}
    plain = {str: "string", bool: "boolean", int: "integer", float: "number", types.NoneType: "null"}
    return {"type": plain[hint]} if hint in plain else {}
