"""Which classes a configuration that came with a file may build: those of oboro, and of packages that are trusted."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from hydra._internal.utils import _locate
from hydra.core.override_parser.overrides_parser import OverridesParser

from oboro.base.errors import UserError

OURS = ("oboro.", "torch.optim.")
# Classes from which others may be derived: parts of a run, and no class that starts a program when it is built.
BASES = ("oboro.", "torch.optim.", "torch.nn.modules.")
# Libraries that hold anything: trust in them as a whole is none.
LIBRARIES = {
    *("torch", "torchvision", "torchmetrics", "torch_fidelity", "lightning", "lightning_fabric", "pytorch_lightning"),
    *("hydra", "omegaconf", "hydra_plugins", "numpy", "scipy", "matplotlib", "PIL", "rich", "filelock", "tensorboard"),
    *("transformers", "diffusers", "datasets", "huggingface_hub", "safetensors", "tokenizers", "onnx", "onnxruntime"),
    *("pip", "setuptools", "pkg_resources", "pytest", "_pytest", "IPython", "oboro"),
}
TRUST = "trust="
_packages: ContextVar[tuple[str, ...]] = ContextVar("packages", default=())


@contextmanager
def trusting(packages: str | Sequence[str] | None) -> Iterator[None]:
    """In the block, checkpoints may build classes that are defined in ``packages`` and derived from a part of oboro's
    or a module of torch. Raises ``UserError`` for names of the standard library and of libraries that hold anything."""
    names = tuple([packages] if isinstance(packages, str) else packages or ())
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"trust={name} is no package; give names of packages, trust=[mypackage].")
        if not can_be_trusted(name):
            raise UserError(
                f"trust={name} would let a file call almost anything; name a package of your own, or leave trust out."
            )
    token = _packages.set(names)
    try:
        yield
    finally:
        _packages.reset(token)


def trusted_packages() -> tuple[str, ...]:
    """The packages that are trusted where this is called."""
    return _packages.get()


def can_be_trusted(name: str) -> bool:
    return name.partition(".")[0] not in {*sys.stdlib_module_names, *LIBRARIES}


def trusted_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Command-line arguments without ``trust=[...]``, and the packages that it names."""
    words = [argument for argument in arguments if argument.startswith(TRUST)]
    values = [o.value() for o in OverridesParser.create().parse_overrides(words)]
    lists = [v if isinstance(v, list) else [] if v is None else [v] for v in values]
    return [argument for argument in arguments if argument not in words], [str(name) for v in lists for name in v]


def nodes(config: dict[str, Any], groups: Sequence[str]) -> Iterator[Any]:
    """Every mapping, list and value in the ``groups`` of a configuration, in order."""
    waiting = [config[group] for group in reversed(groups) if group in config]
    while waiting:
        node = waiting.pop()
        yield node
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        waiting += reversed(list(children))


def targets(config: dict[str, Any], groups: Sequence[str]) -> list[Any]:
    """What the ``groups`` of a configuration call."""
    every = nodes(config, groups)
    return [node["_target_"] for node in every if isinstance(node, dict) and "_target_" in node]


def check_targets(targets: Iterable[Any], path: object) -> None:
    """Raises ``UserError`` where the file at ``path`` names what it may not build.

    A class counts by the module that defines it: one that a module merely imports is not trusted with it.
    """
    foreign = [target for target in targets if not is_ours(target)]
    for target in foreign:
        package = str(target).partition(".")[0]
        if not isinstance(target, str) or "." not in target or not can_be_trusted(package):
            raise UserError(f"{path} wants to call {target}, which is not a class of oboro; do not use this file.")
    packages = sorted({t.partition(".")[0] for t in foreign if not t.startswith(prefixes(_packages.get()))})
    if packages:
        unknown = next(t for t in foreign if t.partition(".")[0] == packages[0])
        raise UserError(
            f"{path} wants to call {unknown}, which is not a class of oboro; if you trust its author, add "
            f"trust=[{','.join([*_packages.get(), *packages])}]."
        )
    for target in foreign:
        check_class(target, _packages.get())


def check_storable(targets: Iterable[Any]) -> None:
    """Raises ``UserError`` where a checkpoint of a configuration with these ``targets`` could not be read with trust in
    their packages: before a run, not after it."""
    for target in targets:
        if not is_ours(target):
            package = str(target).partition(".")[0]
            if not can_be_trusted(package):
                raise UserError(
                    f"{target} is no class of oboro, and no checkpoint may build it; derive a class in a package of "
                    "your own."
                )
            check_class(str(target), [package])


def check_class(target: str, packages: Sequence[str]) -> None:
    """Raises ``UserError`` unless ``target`` is a class that is defined in ``packages`` and derived from a part."""
    try:
        named = _locate(target)  # what Hydra will call; its public get_class writes to the log before it raises
    except Exception as error:
        reason = error.__cause__ or error
        raise UserError(
            f"{target} cannot be imported ({reason}); install its package, or start in the folder that has it."
        ) from error
    if not isinstance(named, type):
        raise UserError(f"{target} is no class; give the name of one that is defined in its package.")
    derived = any(f"{base.__module__}.".startswith(BASES) for base in named.__mro__)
    if not f"{named.__module__}.".startswith(prefixes(packages)) or not derived:
        raise UserError(
            f"{target} is not defined in {' or '.join(packages)} as a class derived from one of oboro or from "
            "torch.nn.Module, and a checkpoint builds no others; derive it from the part that it is."
        )


def is_ours(target: Any) -> bool:
    """Whether ``target`` names a class defined in oboro or torch.optim, and not one that a module of it imports."""
    if not isinstance(target, str) or not target.startswith(OURS):
        return False
    try:
        named = _locate(target)
    except Exception:  # no such name
        return False
    return isinstance(named, type) and named.__module__.startswith(OURS)


def trusted(target: Any) -> bool:
    """Whether a name is one in a package that is trusted."""
    return isinstance(target, str) and can_be_trusted(target) and target.startswith(prefixes(_packages.get()))


def prefixes(packages: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{package}." for package in packages)
