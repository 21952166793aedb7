"""A trained denoiser that others learn from: what distillation has beside the network that it trains."""

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.base.ranges import Scales
from oboro.condition import Condition, kinds_read
from oboro.denoiser import Denoiser, Denoises
from oboro.guidance import ClassifierFree, DenoiserWrapper, Guidance, Unguided
from oboro.guidance.embedded import scale_of
from oboro.lesson import Lesson, lesson_in
from oboro.restore import Trained
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.frozen import digest
from oboro.restore.modality import modality_of
from oboro.restore.rebuild import averaged, build_task
from oboro.schedule import Schedule

TARGET = "oboro.teacher.Teacher"


class Teacher:
    """The denoiser of the checkpoint ``path`` of ``task=diffusion`` with the average ``profile`` of its weights (None
    is the first), under ``guidance``; it is never trained and never averaged.

    It is no part of the module that learns from it, so no checkpoint holds its weights: a student is drawn from,
    measured and exported without the file. ``sha256`` is that of its weights (``oboro.restore.frozen.digest``): a run
    notes it (``pinned``), and one that goes on is held to it. The file is read when the teacher is first asked.

    ``guidance_scales``: the lowest and the highest scale of ``guidance``, in the place of its own; of each sample the
    scale is that of its condition, which the student reads, too (Meng et al. 2023, arXiv:2210.03142, sec. 3.1). A
    teacher that reads the scale is not guided any further.

    Raises ``UserError`` for no path, for a guidance that means the steps of a time grid, or has no scale that could be
    one of several, and, when it is asked, for a file that is missing, is of another task, or holds other weights than
    ``sha256`` says.
    """

    def __init__(
        self,
        path: LocalPath | None,
        profile: str | None = None,
        guidance: Guidance | None = None,
        sha256: str | None = None,
        guidance_scales: Scales | None = None,
    ):
        if path is None:
            raise UserError(
                "this loss learns from a trained model; start from its weights with init=<a checkpoint>, or name it "
                "with loss.teacher.path=<a checkpoint>."
            )
        self.path = Path(path)
        self.profile = profile
        self.guidance = Unguided() if guidance is None else guidance
        self.sha256 = sha256
        self.guidance_scales = guidance_scales
        self._each = None if guidance_scales is None else with_scales(self.guidance, guidance_scales)
        if self.guidance.stepwise:
            raise UserError(
                f"{type(self.guidance).__name__} means the steps of a sampler, and a teacher is asked at single times; "
                "choose guidance@loss.teacher.guidance=classifier_free."
            )

    @cached_property
    def denoiser(self) -> Denoiser:
        """What was trained, in evaluation mode and without gradients, on the device where it was last asked."""
        if not self.path.is_file():
            raise UserError(
                f"the teacher {self.path} is not there, and training goes on from what it answers; put it back, or say "
                "where it is with loss.teacher.path=<a checkpoint>."
            )
        denoiser, read = _restored(self.path, self.path.stat().st_mtime_ns, self.profile)
        if self.sha256 not in (None, read):
            raise UserError(
                f"the teacher {self.path} is not the one that this run has learned from: its weights have the digest "
                f"{read[:12]}… in place of {str(self.sha256)[:12]}…; name the old one with loss.teacher.path=..., or "
                "start anew from the student with init=<its checkpoint> loss.teacher.sha256=null."
            )
        return denoiser

    @property
    def evaluations(self) -> int:
        """Of networks, each time that it is asked: guidance takes a second one."""
        if self.guidance_scales is not None:
            return 2
        return 1 if isinstance(self.guidance, Unguided) or getattr(self.guidance, "scale", 2) == 1 else 2

    @property
    def drops(self) -> bool:
        """Whether its guidance compares it with what it is without its condition."""
        return self.guidance.drops or self.guidance_scales is not None

    @property
    def lesson(self) -> Lesson:
        """What it was taught itself."""
        return lesson_in(self._config)

    @property
    def knows_no_condition(self) -> bool:
        """Whether conditions were dropped in its training, as guidance by them asks."""
        return drops(self._config["conditioner"])

    @property
    def _config(self) -> dict[str, Any]:
        """Of its task."""
        config: dict[str, Any] = load_checkpoint(self.path)["config"]["task"]
        return config

    @property
    def digest(self) -> str:
        """The digest of the weights that were read."""
        return digest(self.denoiser.state_dict())

    def on(self, schedule: Schedule, like: Tensor) -> Denoises:
        """The guided denoiser on ``schedule``, in the type and on the device of ``like``, under those of the signals
        of a condition that its network reads.

        D depends on x_t / alpha_t and the log-SNR alone, so the schedule may be another one than it was trained on.
        """
        denoiser = self.denoiser.to(like.device, like.dtype).reschedule(schedule)
        asked = Asked(denoiser)
        if self._each is None:
            return self.guidance(asked, [])
        return asked if denoiser.reads_guidance_scale else EachScale(asked, self._each)

    def check(self, shape: tuple[int, ...], codec: nn.Module) -> None:
        """Raises ``UserError`` unless its samples have the ``shape`` (C, ...) of the data, and its latents are those of
        ``codec``."""
        checkpoint = load_checkpoint(self.path)
        theirs = modality_of(checkpoint).shape
        if theirs != shape:
            raise UserError(
                f"the teacher {self.path} makes samples of shape {theirs} and the data have {shape}; choose the data "
                "or the teacher that fits."
            )
        own = build_task(checkpoint).get_submodule("codec")
        if type(own) is not type(codec) or digest(own.state_dict()) != digest(codec.state_dict()):
            raise UserError(
                f"the teacher {self.path} knows the latents of another codec; leave codec out where the student starts "
                "from the teacher with init, or choose codec=trained codec.path=<the one that the teacher has>."
            )


class Asked(DenoiserWrapper):
    """The teacher under the signals that its network reads: a student may read more."""

    denoiser: Denoiser

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.denoiser(x_t, t, cond.only(*kinds_read(self.denoiser.network)))

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        return self.denoiser.with_variance(x_t, t, cond.only(*kinds_read(self.denoiser.network)))


def with_scales(guidance: Guidance, scales: Scales) -> ClassifierFree:
    """``guidance``, which can have any of ``scales``. Raises ``UserError`` where it cannot, or has one already."""
    if not isinstance(guidance, ClassifierFree):
        raise UserError(
            f"loss.teacher.guidance_scales are those of classifier-free guidance and {type(guidance).__name__} is "
            "another one; choose guidance@loss.teacher.guidance=classifier_free."
        )
    if guidance.scale != 1:
        raise UserError(
            f"loss.teacher.guidance_scales={list(scales)} and loss.teacher.guidance.scale={guidance.scale:g} both say "
            "how the teacher is guided; leave one of them out."
        )
    return guidance


class EachScale(DenoiserWrapper):
    """A teacher under ``guidance`` at the scale that the condition has for each sample."""

    def __init__(self, denoiser: Denoises, guidance: ClassifierFree):
        super().__init__(denoiser)
        self.guidance = guidance

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self._guided(cond)(x_t, t, cond)

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        return self._guided(cond).with_variance(x_t, t, cond)

    def _guided(self, cond: Condition) -> Denoises:
        return self.guidance.at_scale(self.denoiser, scale_of(cond))


def drops(conditioner: Any) -> bool:
    """Whether the configuration of a conditioner, or of a part of it, has a dropout above 0."""
    if not isinstance(conditioner, dict):
        return False
    return bool(conditioner.get("dropout")) or any(map(drops, conditioner.values()))


@lru_cache(maxsize=2)
def _restored(path: Path, modified: int, profile: str | None) -> tuple[Denoiser, str]:
    """The denoiser and its digest; one for all that ask: ``modified`` tells another file at the same place."""
    denoiser = averaged(build_task(Trained(path, "diffusion").checkpoint), path, profile)
    assert isinstance(denoiser, Denoiser)  # what a task of diffusion learns
    return denoiser.eval().requires_grad_(False), digest(denoiser.state_dict())


def pinned(node: Any) -> Any:
    """A configuration in which every teacher notes the digest of its weights, ``sha256``. Raises ``UserError`` where
    one is missing or holds others than it has noted."""
    if isinstance(node, list):
        return [pinned(child) for child in node]
    if not isinstance(node, dict):
        return node
    if node.get("_target_") == TARGET:
        return {**node, "sha256": instantiate(node, _convert_="all").digest}
    return {key: pinned(child) for key, child in node.items()}
