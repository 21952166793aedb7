"""``import torchmetrics`` without the libraries that only some of its metrics need, until one of these is asked for.

Lightning asks it for the names of ``LIGHT``. Its ``__init__`` imports all metrics, and with them torchvision,
scipy.signal, and transformers where that is installed: nearly half of the time that ``import lightning`` takes.
"""

import importlib
import importlib.abc
import logging
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

NAME = "torchmetrics"
LIGHT = {  # name: the module that it is from, or that it is
    "Metric": "metric",
    "MetricCollection": "collections",
    "utilities": "utilities",
    "__version__": "__about__",
}


def use() -> None:
    """From now on in this process; without effect where torchmetrics is imported already."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


class Loader(importlib.abc.Loader):
    """Leaves the ``__init__`` of the package, which ``usual`` runs, until a name is asked for that is not of
    ``LIGHT``."""

    def __init__(self, usual: importlib.abc.Loader):
        self.usual = usual

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.usual.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        def attribute(name: str) -> Any:
            if name in LIGHT:
                importlib.import_module(f"{NAME}.utilities")  # first: it and torchmetrics.metric import each other
                found = importlib.import_module(f"{NAME}.{LIGHT[name]}")
                return found if name == LIGHT[name] else getattr(found, name)
            if name.startswith("__") and name != "__all__":  # asked of every module by many
                raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
            del module.__getattr__
            self.usual.exec_module(module)
            return getattr(module, name)

        module._logger = logging.getLogger(NAME)  # type: ignore[attr-defined]  # its utilities import it
        module.__getattr__ = attribute  # type: ignore[method-assign]


class Finder(importlib.abc.MetaPathFinder):
    """Finds torchmetrics where it is, with ``Loader``, and nothing else."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == NAME else None
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader)
        return spec
