"""Training that starts from the weights of another run."""

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from oboro.adapter import low_rank_layers, plain_state
from oboro.base.errors import UserError
from oboro.condition import NUMBERS, kinds_read
from oboro.restore.checkpoint import ALSO, check_kind, load_checkpoint, option_of
from oboro.restore.merge import merged
from oboro.restore.rebuild import Task, averaged, build_task, name_of_learned

GAIN = "network.image_gain"  # of a network with weights of magnitude 1

OF_DENOISER = {
    "codec": ("codec",),
    "conditioner": ("conditioner",),
    "model": ("denoiser", "network"),
    "schedule": ("denoiser", "schedule"),
    "parameterization": ("denoiser", "parameterization"),
}
# For each task, where the configuration of its checkpoints holds what an option of a group is made of.
PLACES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "diffusion": {**OF_DENOISER, "loss": ("loss",), "guidance": ("guidance",), "sampler": ("sampler",)},
    "distillation": OF_DENOISER,
    "gan": OF_DENOISER,
    "denoising_autoencoder": OF_DENOISER,
    "classification": {"codec": ("codec",), "model": ("classifier", "network"), "schedule": ("classifier", "schedule")},
    "autoencoder": {"codec": ("autoencoder",), "loss": ("loss",)},
    "clip": {"codec": ("codec",), "model": ("clip",), "loss": ("loss",)},
}


def start_from(task: Task, config: dict[str, Any], path: str | Path, profile: str | None) -> set[str]:
    """Give ``task`` the weights of a checkpoint of the same kind of task, or a student those of a model; the names of
    the parts that got theirs.

    What it learns starts at the average ``profile`` (None is the first), with the adapters of that run merged. The
    layers for pictures, for the end of a jump and for the scale of guidance, where the checkpoint's network reads none,
    stay as they are, at zero, so that both are the same function (Brooks et al. 2022, arXiv:2211.09800, sec. 3.2).
    Frozen parts, or parts of them, take theirs along where they are of the same classes and shapes as in the
    checkpoint. Nothing else is taken:
    averages, optimizer, what a loss has learned, and steps start anew. Raises ``UserError`` for a checkpoint of another
    task or model, naming what differs, and where an adapter would leave a layer at zero.
    """
    checkpoint = merged(load_checkpoint(path))
    kind = option_of(type(task))
    check_kind(checkpoint, path, ALSO.get(kind, kind))
    source = build_task(checkpoint)
    learned, stored = name_of_learned(task), checkpoint["config"]["task"]
    state = averaged(source, path, profile).state_dict()
    new = added(task.learned, source.learned)
    check_trained(task.learned, new)
    load(plain_state(task.learned), state, differences(config, stored, PLACES[kind]), new)
    same = {name for name in task.frozen if name in stored and inherit(getattr(task, name), getattr(source, name))}
    return same | {learned}


def added(here: nn.Module, there: nn.Module) -> set[str]:
    """The weights with which the network of ``here`` reads numbers (``oboro.condition.NUMBERS``), or pictures
    (``image_channels``), where that of ``there`` reads none: its layer ``image``, if this is zero, or its gain is."""
    networks = [getattr(learned, "network", learned) for learned in (here, there)]
    state = plain_state(here)
    read, known = (kinds_read(network) for network in networks)
    layers = tuple(f"network.{number}." for number in NUMBERS if number in read and number not in known)
    numbers = {name for name in state if name.startswith(layers)}
    reading, without = (getattr(network, "image_channels", 0) for network in networks)
    if not reading or without:
        return numbers
    new = {name: w for name, w in state.items() if name.startswith(("network.image.", GAIN))}
    off = GAIN in new and not new[GAIN].any()
    return numbers | {name for name, w in new.items() if off or not w.any()}


def check_trained(learned: nn.Module, new: set[str]) -> None:
    """Raises ``UserError`` where one of the ``new`` weights, which are zero, would never be trained."""
    adapted = {f"{name}.weight" for name, _ in low_rank_layers(learned)}
    trained = {name for name, p in learned.named_parameters() if p.requires_grad} | adapted
    drawn = {name for name, _ in learned.named_buffers()}
    if frozen := sorted(name for name in new - trained - drawn if not name.endswith("bias")):
        layer = frozen[0].rpartition(".")[0]
        raise UserError(
            f"{layer}, which the model in init does not have, starts at zero and the adapter would leave it there; add "
            "it with adapter=full, or choose adapter.targets=[linear,convolution]."
        )


def inherit(here: nn.Module, there: nn.Module) -> bool:
    """Load into ``here``, or else into each of its children, the weights of a module within ``there`` that is alike;
    whether all have got some."""
    match = next((module for module in there.modules() if alike(here, module)), None)
    if match is not None:
        here.load_state_dict(match.state_dict())
        return True
    own = [*here.parameters(recurse=False), *here.buffers(recurse=False)]
    return not own and all(inherit(child, there) for child in here.children() if child.state_dict())


def alike(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules are made of the same classes with weights of the same names and shapes."""
    same_classes = {k: type(m) for k, m in a.named_modules()} == {k: type(m) for k, m in b.named_modules()}
    return same_classes and {k: w.shape for k, w in a.state_dict().items()} == {
        k: w.shape for k, w in b.state_dict().items()
    }


def load(here: dict[str, Tensor], stored: dict[str, Tensor], differing: list[str], new: set[str]) -> None:
    """Copy weights by name, but for ``new`` ones; ``differing`` are the settings to name where one does not fit."""
    here = {name: tensor for name, tensor in here.items() if name not in new}
    for name in [*here, *(k for k in stored if k not in here)]:
        shapes = [tuple(state[name].shape) if name in state else "absent" for state in (stored, here)]
        if shapes[0] != shapes[1]:
            why = "; ".join(differing) or "the settings are equal"
            raise UserError(
                f"init is a checkpoint of another model: {name} is {shapes[0]} there and {shapes[1]} here, and {why}; "
                "leave these settings out, they come with init."
            )
    for name, tensor in here.items():
        tensor.copy_(stored[name])


def differences(config: dict[str, Any], stored: dict[str, Any], places: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The settings that two configurations of a task do not share, in words and by their names on the command line."""

    def walk(a: Any, b: Any, key: str) -> list[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            keys = [*a, *(k for k in b if k not in a)]
            return [difference for k in keys for difference in walk(a.get(k), b.get(k), f"{key}.{k}")]
        return [] if a == b else [f"{key} is {b} there and {a} here"]

    of_shapes = {group: place for group, place in places.items() if group in ("model", "codec")}
    return [d for group, place in of_shapes.items() for d in walk(at(config, place), at(stored, place), group)]


def at(node: dict[str, Any], place: tuple[str, ...]) -> Any:
    """What a nested configuration holds at ``place``."""
    return reduce(lambda inner, key: inner[key], place, node)
