"""What a checkpoint file holds, before anything of it is used: a file can be readable and of another form."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from oboro.base.errors import UserError

MODEL = ("config", "ema", "state_dict")  # what makes a file one of ours


def is_named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def is_state(value: Any) -> bool:
    return is_named(value) and all(isinstance(weight, Tensor) for weight in value.values())


def is_average(value: Any) -> bool:
    if not is_named(value) or not is_count(value.get("updates")) or not is_named(value.get("averages")):
        return False
    return all(is_state(average) for average in value["averages"].values())


def is_config(value: Any) -> bool:
    return is_named(value) and is_named(value.get("task"))


def are_averages(value: Any) -> bool:
    return is_named(value) and all(is_average(average) for average in value.values())


def are_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


FORM: Mapping[str, Callable[[Any], bool]] = {
    "config": is_config,
    "state_dict": is_state,
    "ema": is_average,
    "averages": are_averages,
    "modality": is_named,
    "frozen": is_named,
    "global_step": is_count,
    "fingerprint": lambda value: value is None or isinstance(value, str),
    "loops": is_named,
    "pytorch-lightning_version": lambda value: isinstance(value, str),
    "callbacks": is_named,
    "optimizer_states": are_mappings,
    "lr_schedulers": are_mappings,
}


def check_form(checkpoint: Any, path: object) -> None:
    """Raises ``UserError`` where the content of the file at ``path`` is none of a checkpoint, or a part of it is of
    another type than training writes."""
    if not isinstance(checkpoint, dict) or not set(MODEL) <= set(checkpoint):
        raise UserError(f"{path} was not written by oboro; give a .ckpt file that train.py wrote.")
    if "global_step" not in checkpoint:
        raise UserError(f"{path} is not whole, it has no global_step; give a .ckpt file that train.py wrote.")
    for key, has_form in FORM.items():
        if key in checkpoint and not has_form(checkpoint[key]):
            raise UserError(
                f"{path} is not what train.py writes: its {key} is of another form; use another .ckpt file."
            )
