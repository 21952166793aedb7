"""A configuration that came with a file, against the same signatures as one that is typed, and more strictly.

It holds plain values alone (``oboro.restore.plain``), so that nothing of it means anything to Hydra; every node is of
the kind that its place has, and its keys are arguments of its class. So no function is called, and no
class is built that is not a part of a run.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Union

from lightning import Trainer
from torch import nn

from oboro.base.annotation import is_class, is_free, words
from oboro.base.configuration import TARGET, Configuration, Path, inners, is_a, key_of, shown
from oboro.base.errors import UserError
from oboro.base.ranges import Seed
from oboro.base.signature import located, signature
from oboro.restore.plain import plain
from oboro.restore.trust import check_targets, nodes, targets, trusted

MISSING = "???"  # OmegaConf's mark
# What a group of a checkpoint is. Classes by name: what they are of is above this room.
KINDS: Mapping[str, tuple[str, ...]] = {
    "task": ("oboro.task.Task",),
    "data": ("oboro.data.DataModule",),
    "extractor": ("oboro.extractor.Extractor", "oboro.extractor.Joint"),
    "metrics": ("oboro.metrics.Metric", "oboro.metrics.Paired"),
    "sampler": ("oboro.sampler.Sampler",),
    "guidance": ("oboro.guidance.Guidance",),
    "schedule": ("oboro.schedule.Schedule",),
    "modality": ("oboro.modality.Modality",),
    "detector": ("oboro.detector.Detector",),
    "distance": ("oboro.distance.Distance",),
}
TRAINERS = ("lightning.pytorch.Trainer", "lightning.Trainer", "pytorch_lightning.Trainer")
TRAINER_PARTS = ("lightning.pytorch.strategies.", "lightning.pytorch.plugins.")
BY_NAME = ("metrics", "distance")  # groups of several nodes


def refuse_foreign(config: dict[str, Any], groups: Sequence[str], path: object) -> None:
    """Raises ``UserError`` where the ``groups`` of a configuration hold more than plain values and trusted classes, or
    something else than the arguments of those, each of the kind of its place.

    Interpolations are refused too: they could make a ``_target_`` after the check, and ``oboro train`` resolves them.
    """
    plain(config, path)
    if MISSING in nodes(config, [group for group in groups if group != "data"]):  # data are named where they are read
        raise UserError(f"{path} has a value that is missing in its configuration; do not use this file.")
    check_targets(targets(config, groups), path)
    check_trainer(config.get("trainer"), path)
    foreign = Foreign(config, path)
    for group in groups:
        if group in config:
            foreign.check_group(group)
    if "seed" in config:
        foreign.value(Seed, ("seed",))


def check_trainer(trainer: Any, path: object) -> None:
    """Raises ``UserError`` where ``trainer`` is none of Lightning's with plain values and parts of Lightning."""
    if not trainer:
        return
    if isinstance(trainer, dict):  # one that is no class of Lightning's is not kept
        trainer = {TARGET: TRAINERS[0], **trainer}
    target = trainer.get(TARGET) if isinstance(trainer, dict) else trainer
    if target in TRAINERS:
        theirs = [t for t in targets({"trainer": trainer}, ["trainer"]) if t != target]
        strange = [t for t in theirs if not isinstance(t, str) or not t.startswith(TRAINER_PARTS)]
        if not strange:
            # What is read beside a run that goes on; such a run checks all of its values. A model that was imported,
            # or trained by others, may have any number of steps.
            read = {key: trainer[key] for key in (TARGET, "precision") if key in trainer}
            Foreign({"trainer": read}, path).value(Trainer, ("trainer",))
            return
        target = strange[0]
    if not trusted(target):
        raise UserError(f"{path} wants to call {target} as its trainer, not Lightning's; do not use this file.")


class Foreign(Configuration):
    """The configuration of the file at ``path``."""

    hydras = frozenset({TARGET})

    def __init__(self, config: dict[str, Any], path: object):
        super().__init__(config, config)
        self.path = path

    def check_group(self, group: str) -> None:
        """Raises ``UserError`` where a group of ``KINDS`` is something else."""
        kind: Any = Union[tuple(located(name) for name in KINDS[group])]  # noqa: UP007 (made of a tuple)
        if not self.raw[group]:
            return
        if group in BY_NAME and isinstance(self.raw[group], dict) and TARGET not in self.raw[group]:
            self.items(kind, kind, (group,), self.raw[group])
        else:
            self.value(kind, (group,))

    def kind(self, annotation: Any, place: Path, value: dict[str, Any], called: Any) -> None:
        """Where an annotation says nothing, a part of any kind."""
        kinds = list(inners(annotation))
        parts = [located(name) for names in KINDS.values() for name in names]
        if not isinstance(called, type):
            raise UserError(self.message(f"{key_of(place)} calls {shown(value[TARGET])}, which is no class"))
        if any(is_free(kind) for kind in kinds):
            kinds = [nn.Module, *parts]
        if not any(is_class(kind) and is_a(called, kind) for kind in kinds):
            raise UserError(self.message(f"{key_of(place)} is {shown(value[TARGET])} and must be {words(annotation)}"))
        if signature(called).others:
            unknown = [key for key in value if key not in signature(called).arguments and key != TARGET]
            if unknown:
                raise UserError(self.no_key((*place, unknown[0]), signature(called).arguments))

    def message(self, text: str, hint: str = "") -> str:
        return f"{self.path} has a configuration that cannot be built: {text}; use another file."
