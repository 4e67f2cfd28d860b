"""Finds the private names of other libraries that the package's source uses. Reads the source; imports only the libraries."""

import ast
import functools
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any


REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "scissorhands_hf"
LIBRARIES = ("accelerate", "datasets", "diffusers", "huggingface_hub", "peft", "safetensors", "torch", "transformers")
# Classes that the package's own derive from, or whose objects it handles: what is private in them is theirs, even where a class
# of the package defines it again.
CLASSES = (
    "accelerate.Accelerator",
    "diffusers.DiffusionPipeline",
    "diffusers.ModelMixin",
    "huggingface_hub.HfApi",
    "huggingface_hub.ModelCard",
    "torch.nn.Module",
    "torch.optim.Optimizer",
    "torch.utils.data.DataLoader",
    "transformers.HfArgumentParser",
    "transformers.PreTrainedModel",
    "transformers.Trainer",
    "transformers.TrainerCallback",
    "transformers.TrainingArguments",
)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


@functools.cache
def library_names() -> frozenset[str]:
    """Private names of the classes above."""
    return frozenset(name for path in CLASSES for name in dir(find(path)) if is_private(name))


def find(path: str) -> Any:
    """The module, class or function of a dotted path."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, parts[cut:], found)
    raise ModuleNotFoundError(path)


def exists(owner: str, name: str) -> bool:
    """Whether a module or class of an installed library has the name, or gives it to its objects."""
    thing = find(owner)
    return hasattr(thing, name) or name in inspect.getsource(thing)


def own_names(trees: dict[Path, ast.AST]) -> set[str]:
    """Private names that the package defines: functions, classes, variables, and attributes that it sets."""
    names = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
    return {name for name in names if is_private(name)}


def uses(package: Path = PACKAGE) -> dict[str, set[str]]:
    """By private name of a library, the files (relative to the package) that use it."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))}
    own = own_names(trees)
    found: dict[str, set[str]] = {}
    for path, tree in trees.items():
        imported = {alias.asname or alias.name.split(".")[0] for alias in _library_imports(tree)}
        for name, root in _mentions(tree):
            if root in imported or name in library_names() or name not in own:
                found.setdefault(name, set()).add(str(path.relative_to(package)))
    return found


def _root(node: ast.AST) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _library_imports(tree: ast.AST) -> Iterator[ast.alias]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias for alias in node.names if alias.name.split(".")[0] in LIBRARIES)
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in LIBRARIES:
            yield from node.names


def _mentions(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """(private name, variable it is asked of) of imports, attributes, overridden methods, arguments, and texts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((part, None) for alias in node.names for part in alias.name.split(".") if is_private(part))
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in LIBRARIES:
            parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from ((part, None) for part in parts if is_private(part))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr, _root(node.value)
        elif isinstance(node, ast.ClassDef) and node.bases:
            yield from (
                (item.name, "self") for item in node.body if isinstance(item, ast.FunctionDef) and is_private(item.name)
            )
        elif isinstance(node, ast.Call):
            yield from ((keyword.arg, None) for keyword in node.keywords if keyword.arg and is_private(keyword.arg))
            yield from _asked_by_text(node)
        elif isinstance(node, ast.Subscript):
            yield from _asked_by_text(node)


def _asked_by_text(node: ast.Call | ast.Subscript) -> Iterator[tuple[str, str | None]]:
    """`getattr(x, "_name")`, `x.get("_name")`, `x["_name"]` and the like."""
    match node:
        case ast.Call(func=ast.Name("getattr" | "hasattr" | "setattr" | "delattr"), args=[thing, ast.Constant(str(name)), *_]):
            pass
        case ast.Call(func=ast.Attribute(value=thing, attr="get" | "pop" | "setdefault"), args=[ast.Constant(str(name)), *_]):
            pass
        case ast.Subscript(value=thing, slice=ast.Constant(str(name))):
            pass
        case _:
            return
    if is_private(name) and name.isidentifier():
        yield name, _root(thing)
