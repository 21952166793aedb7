"""Which settings a run can give Lightning's trainer: narrower than its own annotations, which admit what never ends
or ends in a traceback."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Predicate

from oboro.base.annotation import bare, is_class, members
from oboro.base.ranges import Count, CountOrNone, NonNegative, PositiveShare, Share

TRAINER = ("lightning.pytorch.trainer.trainer.Trainer", "pytorch_lightning.trainer.trainer.Trainer")
Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"]
# Lightning's words; oboro.cli.device says why it refuses some of them.
PRECISIONS = (
    *("auto", "32", "32-true", "bf16", "bf16-mixed", "16", "16-mixed", "64", "64-true", "16-true", "bf16-true"),
    *("transformer-engine", "transformer-engine-float16"),
)


def known_precision(word: object) -> bool:
    """one of auto, 32-true, bf16-mixed, 16-mixed"""
    return str(word) in PRECISIONS


Precision = Annotated[str, Predicate(known_precision)] | Annotated[int, Predicate(known_precision)]


def numbered(devices: str) -> bool:
    """device numbers in quotes, "0,1\""""
    return bool(re.fullmatch(r"\d+(,\d+)*,?", devices))


def known_strategy(name: str) -> bool:
    """auto, ddp, fsdp2 or another of Lightning's strategies that leave the averages whole"""
    from lightning.pytorch.strategies import StrategyRegistry  # it grows with what is installed

    splits = name != "fsdp2" and name.startswith(("fsdp", "deepspeed"))  # weights that averages would miss
    return name == "auto" or (name in StrategyRegistry.available_strategies() and not splits)


def duration(text: str) -> bool:
    """days, hours, minutes and seconds in quotes, "00:12:00:00\""""
    return bool(re.fullmatch(r"\d+:\d\d:\d\d:\d\d", text)) and bool(seconds_of(text))


def units(time: Mapping[str, float]) -> bool:
    """some of weeks, days, hours, minutes and seconds"""
    return set(time) <= {"weeks", "days", "hours", "minutes", "seconds"} and any(time.values())


def seconds_of(time: str | Mapping[str, float] | None) -> float | None:
    """Of a ``max_time`` of Lightning's, "DD:HH:MM:SS" or the arguments of a ``timedelta``; None without one."""
    if isinstance(time, str):
        time = dict(zip(("days", "hours", "minutes", "seconds"), map(int, time.split(":")), strict=True))
    return None if time is None else timedelta(**time).total_seconds()


Devices = Count | Literal["auto", -1, "-1"] | list[CountOrNone] | Annotated[str, Predicate(numbered)]
NARROWER: dict[str, Any] = {
    "accelerator": Accelerator,
    "strategy": Annotated[str, Predicate(known_strategy)],
    "devices": Devices,
    "num_nodes": Count,
    "precision": Precision,
    "max_steps": Count,
    "min_steps": CountOrNone | None,
    "max_epochs": Count | Literal[-1] | None,
    "min_epochs": CountOrNone | None,
    "max_time": Annotated[str, Predicate(duration)] | Annotated[dict[str, NonNegative], Predicate(units)] | None,
    "limit_train_batches": Count | PositiveShare | None,
    "limit_val_batches": CountOrNone | Share | None,
    "overfit_batches": CountOrNone | Share,
    "gradient_clip_val": NonNegative | None,
    "gradient_clip_algorithm": Literal["norm", "value"] | None,
    "accumulate_grad_batches": Count,
    "val_check_interval": Count | PositiveShare | None,
    "check_val_every_n_epoch": Count | None,
    "log_every_n_steps": CountOrNone | None,
    "num_sanity_val_steps": Annotated[int, Ge(-1)] | None,
    "reload_dataloaders_every_n_epochs": CountOrNone,
    "profiler": Literal["simple", "advanced", "pytorch", "xla"] | None,
}


def narrowed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Lightning's ``arguments`` of a trainer with ours; objects that one of them can be, it still can be."""

    def both(theirs: Any, ours: Any) -> Any:
        objects = [member for member in members(theirs) if is_class(bare(member)[0])]
        return Union[(ours, *objects)]

    return {name: both(hint, NARROWER[name]) if name in NARROWER else hint for name, hint in arguments.items()}
