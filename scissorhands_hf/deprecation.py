"""Old places of names keep working for one release, with a `FutureWarning` that says where the name is now."""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


# The release without the old places.
REMOVED_IN = "0.3.0"


def warn_moved(old: str, new: str, stacklevel: int = 2) -> None:
    """
    Warn that something has a new name.

    Args:
        old (`str`):
            The name that was used.
        new (`str`):
            The one to use instead.
        stacklevel (`int`, defaults to 2):
            Of the caller to be blamed, as in `warnings.warn` called from where this is called.
    """
    # FutureWarning: Python shows it to everyone, a DeprecationWarning only to those who look for it.
    warnings.warn(f"{old} will be gone in scissorhands_hf {REMOVED_IN}: use {new}", FutureWarning, stacklevel=stacklevel + 1)


def find_moved(old: str, name: str, places: Sequence[str], stacklevel: int) -> Any:
    """The value of `name` in the first of the modules `places` that has it, with a warning; AttributeError if none has."""
    for place in places:
        module = importlib.import_module(place)
        if hasattr(module, name):
            warn_moved(f"{old}.{name}", f"{place}.{name}", stacklevel + 1)
            return getattr(module, name)
    raise AttributeError(f"module {old!r} has no attribute {name!r}")


def with_moved_names(package: str, names: Sequence[str], place: str, otherwise: Callable[[str], Any]) -> Callable[[str], Any]:
    """
    A package's `__getattr__` that also finds names which moved elsewhere.

    Args:
        package (`str`):
            Its `__name__`.
        names (`Sequence[str]`):
            What moved.
        place (`str`):
            The module where it is now.
        otherwise (`Callable`):
            The `__getattr__` for all other names.
    """

    def __getattr__(name: str) -> Any:
        return find_moved(package, name, [place], 2) if name in names else otherwise(name)

    return __getattr__


class MovedModule(ModuleType):
    """Stands where a module was. Nothing is imported before a name is asked of it."""

    def __init__(self, old: str, places: Sequence[str]) -> None:
        super().__init__(old, f"Moved to {', '.join(places)}.")
        self.__spec__ = ModuleSpec(old, loader=None)
        self._places = places

    def __getattr__(self, name: str) -> Any:
        # Python itself asks every module for such names, as `__file__`.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return find_moved(self.__name__, name, self._places, 2)


def register_moved_modules(moved: Mapping[str, Sequence[str]]) -> None:
    """
    Let modules that moved be imported by their old names, without a file for each.

    Args:
        moved (`Mapping[str, Sequence[str]]`):
            By old name the modules that hold what was in it.
    """
    for old, places in moved.items():
        module = sys.modules[old] = MovedModule(old, places)
        parent, _, leaf = old.rpartition(".")
        if parent in sys.modules:  # as an import would have done
            setattr(sys.modules[parent], leaf, module)
