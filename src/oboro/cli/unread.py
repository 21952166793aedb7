"""Keys on the command line that a way of running does not read: refused by name instead of ignored."""

from collections.abc import Iterable

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from oboro.base.errors import UserError
from oboro.cli.options import meant


def typed_keys(overrides: Iterable[str]) -> list[str]:
    """The keys of ``key=value``, ``+key=value``, ``~key`` and ``group@package=option``."""
    return [override.lstrip("+~").partition("=")[0].partition("@")[0] for override in overrides]


def refuse_unknown(config: DictConfig) -> None:
    """Raises ``UserError`` for what ``+key=value`` and ``++key=value`` add where nothing reads it: in Hydra's own
    settings, and for a callback that is not among those of the run. All else is held against the classes that read it
    (``oboro.cli.settings``)."""
    overrides = HydraConfig.get().overrides
    for key in typed_keys(overrides.hydra):
        node = OmegaConf.structured(HydraConf)
        for part in key.split(".")[1:]:
            if not isinstance(node, DictConfig) or node._is_missing() or OmegaConf.get_type(node) is dict:
                break  # one value, or a mapping of any keys
            if part not in (known := sorted(map(str, node))):
                raise UserError(f"there is no key {key}; there are {', '.join(known)}.{meant(part, known)}")
            node = node._get_node(part)
    for word in overrides.task:
        key, _, value = word.partition("=")
        if value.replace(" ", "") == "{}" and not word.startswith("+") and OmegaConf.select(config, key):
            kept = ", ".join(map(str, OmegaConf.select(config, key)))
            raise UserError(
                f"{word} takes nothing out, since a mapping adds to what is there ({kept}); take one out with "
                f"'~{key}.NAME', or leave it out."
            )
    for key in typed_keys(word for word in overrides.task if word.startswith("+")):  # others are there
        group, _, rest = key.partition(".")
        name, _, value = rest.partition(".")
        if group == "callbacks" and value and "_target_" not in (config.callbacks.get(name) or {}):
            raise UserError(
                f"there is no key {key}, since callbacks has no {name}; add {name} to callbacks=[...], or leave {key} "
                "out."
            )


def refuse_unread_hint(config: DictConfig) -> None:
    """Raises ``UserError`` for ``hint=...`` where no condition is a picture."""
    conditioner = config.get("conditioner") or {}
    parts = (conditioner, *(conditioner.get("parts") or {}).values())
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    typed = next((word for word in words if word.lstrip("+").startswith("hint=")), None)
    if typed and not any("hint" in part for part in parts):
        raise UserError(
            f"{typed} makes a picture that no condition reads; choose conditioner=image, joint_label_image or "
            "joint_text_image, or leave it out."
        )


def refuse_unread(mode: str, read: Iterable[str]) -> None:
    """Raises ``UserError`` for typed keys that do not begin with one of ``read``; ``mode`` is what reads these."""
    roots = set(read)
    typed = typed_keys(HydraConfig.get().overrides.task)
    unread = [key for key in typed if key.partition(".")[0].partition("/")[0] not in roots]
    if unread:
        names, several = ", ".join(dict.fromkeys(unread)), len(set(unread)) > 1
        mean, them = ("mean", "them") if several else ("means", "it")
        raise UserError(f"{names} {mean} nothing with {mode}; leave {them} out.")
