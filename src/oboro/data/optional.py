"""Libraries that only some data options need."""

from importlib import import_module
from types import ModuleType

from oboro.base.errors import UserError


def library(name: str, option: str, extra: str | None = None) -> ModuleType:
    """The module ``name``, which an extra of the same name or another installs; ``UserError`` where it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f'data={option} needs the library {name}; pip install "oboro[{extra or name}]"') from error
