"""What the commands of Hydra can be given: the types of the values and groups at the root of a configuration."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NotRequired, TypedDict

import lightning
from annotated_types import Ge, Len
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from oboro.anomalies import Anomalies
from oboro.base.annotation import is_class
from oboro.base.configuration import TARGET, Configuration, Path, is_a, key_of
from oboro.base.errors import UserError
from oboro.base.lightning_trainer import Accelerator, Devices, Precision
from oboro.base.ranges import (
    AverageWidth,
    Count,
    CountOrNone,
    Name,
    NonNegative,
    Positive,
    PositiveOrInfinite,
    Seed,
    Share,
    Steps,
    Width,
)
from oboro.base.secret import first_hidden
from oboro.base.signature import located
from oboro.cli.options import folders, options
from oboro.conditioner.control import Interval
from oboro.data import DataModule
from oboro.detection import Pool
from oboro.detector import Detector
from oboro.distance import Distance
from oboro.edit import Edit
from oboro.evaluate.baselines import Baseline
from oboro.evaluate.drawn_after import Conditions
from oboro.extractor import Extractor, Joint
from oboro.guidance import Guidance
from oboro.measurement import MaskShape, Measurement
from oboro.metrics import Metric, Paired
from oboro.restore import Stored
from oboro.sampler import Sampler
from oboro.schedule import Schedule
from oboro.task import Task


class Command(TypedDict):
    trust: str | Sequence[str] | None
    traceback: bool
    overwrite: bool
    output_dir: Name


class Training(Command):
    seed: Seed
    data: DataModule
    task: Task
    extractor: NotRequired[Extractor | Joint]
    metrics: Mapping[str, Metric | Paired] | None
    callbacks: Mapping[str, Callback] | None
    logger: Mapping[str, Logger] | None
    trainer: lightning.Trainer
    rank_timeout: Positive
    plan: bool
    plan_price: NonNegative | None
    plan_bandwidth: Positive | None
    init: Name | None
    init_profile: Name | None
    resume: Name | None


class Drawing(Command):
    schedule: Schedule
    sampler: Sampler
    guidance: Guidance
    seed: Seed
    profile: Name | None
    ema_std: AverageWidth | None
    adapter_file: Name | None
    adapter_scale: float
    controls: Name | Annotated[Sequence[Name], Len(1)] | None
    control_strength: NonNegative | Annotated[Sequence[NonNegative], Len(1)] | None
    control_interval: Annotated[Sequence[Share], Len(2, 2)] | Annotated[Sequence[Interval], Len(1)] | None
    chunk: Count
    accelerator: Accelerator
    precision: Precision | None


class Sampling(Drawing):
    checkpoint: Name
    n: Count
    measurement: NotRequired[Measurement | MaskShape | None]
    measured: Name | None
    measurement_noise: NonNegative
    degraded: bool
    size: Annotated[Sequence[Width], Len(2, 2)] | None
    label: int | Annotated[Sequence[int], Len(1)] | None  # of the classes that the model has
    prompt: str | Sequence[Any] | None  # texts, which oboro.cli.sample.texts holds against the model
    hint: Name | Mapping[str, Name] | None
    hint_ready: bool
    mask: Name | None
    negative: str | Sequence[Any] | None
    previews: CountOrNone
    npz: bool


class Editing(Drawing):
    checkpoint: Name
    edit: Edit
    image: Name | Annotated[Sequence[Name], Len(1)] | None
    to: Name | Annotated[Sequence[Name], Len(1)] | None
    n: Count | None
    label: int | Annotated[Sequence[int], Len(1)] | None
    prompt: str | Sequence[Any] | None
    source_label: int | Annotated[Sequence[int], Len(1)] | None
    source_prompt: str | Sequence[Any] | None
    hint: Name | Mapping[str, Name] | None
    hint_ready: bool
    mask: Name | None
    negative: str | Sequence[Any] | None


class BitsPerDim(TypedDict):
    n: CountOrNone
    steps: Steps
    probes: Count


class Evaluating(Drawing):
    checkpoint: NotRequired[Name | None]  # images= and watch= do without
    data: DataModule
    measurement: NotRequired[Measurement | MaskShape | None]
    measurement_noise: NonNegative
    extractor: NotRequired[Extractor | Joint]
    metrics: Mapping[str, Metric | Paired] | None
    images: Name | None
    n: Annotated[int, Ge(2)]
    repeats: Count
    conditions: Conditions
    draws: Count
    baselines: Sequence[Baseline]
    truth: Name | None
    reference: Name | None
    bits_per_dim: BitsPerDim
    tune_times: CountOrNone
    watch: Name | None
    idle: NonNegative
    devices: Devices


class Detecting(Drawing):
    checkpoint: Name | None
    calibrated: Name | None
    data: NotRequired[DataModule]
    detector: Detector
    distance: Mapping[str, Distance] | None
    anomalies: NotRequired[Anomalies | None]
    extractor: NotRequired[Extractor | Joint]
    images: Name | None
    follow: NonNegative
    normals: Annotated[int, Ge(2)]
    share: Share
    score: Pool
    top_share: Share
    smoothing: NonNegative
    temperature: PositiveOrInfinite
    resamples: Count


class Typed(Configuration):
    """A configuration that is composed of options."""

    def instead(self, place: Path, kinds: Sequence[Any]) -> str:
        """The options of the group at ``place`` that are of one of ``kinds``, and the tasks that take what is there."""
        group = "/".join(map(str, place))
        fitting = [name for name in options(group) if is_class(made := class_of(group, name)) and fits(made, kinds)]
        return f" Choose {key_of(place)}={'|'.join(fitting)}." if fitting else ""


def class_of(group: str, name: str) -> Any:
    """The class of an option, or of the option of its group that it varies; None where it names none."""
    for folder in folders():
        if (file := folder / group / f"{name}.yaml").is_file():
            node = OmegaConf.load(file)
            if not isinstance(node, DictConfig):
                return None
            if TARGET in node:
                return located(node._target_)
            based = [d for d in node.get("defaults") or () if isinstance(d, str) and d not in ("_self_", name)]
            return class_of(group, based[0]) if based else None
    return None


def fits(made: type, kinds: Sequence[Any]) -> bool:
    return any(is_class(kind) and is_a(made, kind) for kind in kinds)


def check_settings(config: DictConfig, settings: type, resolve: bool = True) -> None:
    """Raises ``UserError`` where ``config`` is none of ``settings``; what is meant in another type gets it, in place.

    What was written comes first, then what it is interpolated to, so that a wrong value is named where it was written.
    Without ``resolve`` only what was written: before ``auto`` is a number. Raises ``UserError``, too, where a value was
    hidden in the file that it comes from.
    """
    if (name := first_hidden(plain(config, False))) is not None:
        raise UserError(f"{name} was hidden when it was saved, as a secret; give {name}=... again.")
    for resolved in (False, True)[: 1 + resolve]:
        check = Typed(plain(config, False), plain(config, True) if resolved else None, (Stored,))
        check.check(settings)
        for place, value in check.changes.items():
            node = config
            for key in place[:-1]:
                node = node[key]
            node[place[-1]] = value


def plain(config: DictConfig, resolve: bool) -> dict[str, Any]:
    """As plain containers, without groups that nothing was chosen for, and without callbacks of which an experiment
    sets values and ``callbacks=[...]`` names none."""
    container = OmegaConf.to_container(config, resolve=resolve)
    if isinstance(container.get("callbacks"), dict):
        chosen = {k: v for k, v in container["callbacks"].items() if not isinstance(v, dict) or TARGET in v}
        container["callbacks"] = chosen
    return {key: value for key, value in container.items() if not nothing(value)}


def nothing(value: Any) -> bool:
    """Whether a group is empty, and all groups within it."""
    return isinstance(value, dict) and all(map(nothing, value.values()))
