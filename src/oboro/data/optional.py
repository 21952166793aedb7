"""Libraries that only some data options need."""

from importlib import import_module
from types import ModuleType

from oboro.base.errors import UserError


def library(name: str, option: str) -> ModuleType:
    """The module ``name``, which the extra of the same name installs; ``UserError`` where it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f'data={option} needs the library {name}; pip install "oboro[{name}]"') from error
