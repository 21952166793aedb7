"""Keys on the command line that a way of running does not read: refused by name instead of ignored."""

from collections.abc import Iterable

from hydra.core.hydra_config import HydraConfig

from oboro.base.errors import UserError


def typed_keys(overrides: Iterable[str]) -> list[str]:
    """The keys of ``key=value``, ``+key=value``, ``~key`` and ``group@package=option``."""
    return [override.lstrip("+~").partition("=")[0].partition("@")[0] for override in overrides]


def refuse_unread(mode: str, read: Iterable[str]) -> None:
    """Raises ``UserError`` for typed keys that do not begin with one of ``read``; ``mode`` is what reads these."""
    roots = set(read)
    typed = typed_keys(HydraConfig.get().overrides.task)
    unread = [key for key in typed if key.partition(".")[0].partition("/")[0] not in roots]
    if unread:
        names, several = ", ".join(dict.fromkeys(unread)), len(set(unread)) > 1
        mean, them = ("mean", "them") if several else ("means", "it")
        raise UserError(f"{names} {mean} nothing with {mode}; leave {them} out.")
