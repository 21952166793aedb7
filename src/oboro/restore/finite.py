"""Numbers that are none: a diverged run's are not written, not read, and so never measured like others."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def not_finite(checkpoint: Mapping[str, Any]) -> str | None:
    """The first weight, average or number of an optimizer that is NaN or infinite, in words; None where all are finite.

    Buffers may be infinite, as masks are: of what is not averaged only NaN counts.
    """
    averages = {**({"": checkpoint["ema"]} if "ema" in checkpoint else {}), **checkpoint.get("averages", {})}
    trained = {name for state in averages.values() for average in state["averages"].values() for name in average}
    for name, weight in checkpoint["state_dict"].items():
        if not is_finite(weight, nan_alone=not is_below(name, trained)):
            return name
    for state in averages.values():
        for profile, average in state["averages"].items():
            for name, weight in average.items():
                if not is_finite(weight):
                    return f"{name} averaged as {profile}"
    for state in checkpoint.get("optimizer_states", ()):
        for place, value in numbers(state, ()):
            if not is_finite(value):
                return f"the optimizer's {place[-1]} of weight {place[-2]}" if len(place) > 1 else "the optimizer"
    return None


def is_below(name: str, names: set[str]) -> bool:
    """Whether ``name`` is one of ``names`` behind the name of the module that they are of."""
    return any(name[i + 1 :] in names for i, character in enumerate(name) if character == ".")


def is_finite(weight: Tensor, nan_alone: bool = False) -> bool:
    """In one pass without a copy: an extreme is NaN or infinite where any value is. Of what is on no device, and so has
    no values, always."""
    if weight.is_meta or not weight.numel() or not (weight.is_floating_point() or weight.is_complex()):
        return True
    weight = weight.detach()
    values = torch.view_as_real(weight) if weight.is_complex() else weight
    if values.itemsize == 1:  # of eight bits, for which there is no comparison
        values = values.float()
    ends = torch.stack(torch.aminmax(values))
    return not bool(ends.isnan().any()) if nan_alone else bool(ends.isfinite().all())


def numbers(node: Any, place: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """The tensors in nested containers, with their places."""
    if isinstance(node, Tensor):
        yield place, node
    elif isinstance(node, Mapping):
        for key, child in node.items():
            yield from numbers(child, (*place, key))
    elif isinstance(node, list | tuple):
        for key, child in enumerate(node):
            yield from numbers(child, (*place, key))
