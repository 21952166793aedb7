"""Values of a composed configuration."""

from typing import Any

from omegaconf import OmegaConf


def plain(value: Any) -> Any:
    """``value`` itself, or where it is a node of the configuration the values below it, resolved.

    Raises omegaconf's ``MissingMandatoryValue`` for one that is missing, with its whole key: what is built from a copy
    knows only the key within it.
    """
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value
