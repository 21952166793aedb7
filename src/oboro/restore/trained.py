"""What another run learned."""

from copy import deepcopy
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.base.ranges import Width
from oboro.restore.checkpoint import check_kind, load_checkpoint
from oboro.restore.merge import merged
from oboro.restore.rebuild import averaged, build_task, name_of_learned
from oboro.restore.stored import State, Stored


class Trained(Stored):
    """What a checkpoint of ``task=<task>`` learned, frozen, with the average ``profile`` of its weights; None is the
    first.

    ``part`` is a submodule of it, for those who need no more: the text tower of a CLIP, the network of a denoiser. What
    is loaded into a run has the adapters of its own run merged. The file is read when it is
    first needed, which raises ``UserError`` if there is no such checkpoint or average, or if it is of another task. No
    path is a ``UserError``, too.
    ``channels`` are those of a codec's latents, for nodes of a configuration that interpolate them; it changes nothing.
    """

    def __init__(
        self,
        path: LocalPath | Path | None,
        task: str,
        profile: str | None = None,
        part: str | None = None,
        channels: Width | None = None,
    ):
        if path is None:
            raise UserError(
                f"this run begins with what task={task} has learned and no checkpoint is named; start with "
                "init=<a checkpoint>, or set the path of each part that is trained already."
            )
        self.path = Path(path).expanduser()
        self.task = task
        self.profile = profile
        self.part = part
        self.channels = channels

    @property
    def checkpoint(self) -> dict[str, Any]:
        """The whole file."""
        checkpoint = load_checkpoint(self.path)
        check_kind(checkpoint, self.path, self.task)
        return checkpoint

    @cached_property
    def module(self) -> nn.Module:
        """The module itself, in evaluation mode, on the CPU until it is moved."""
        module = averaged(build_task(self.checkpoint), self.path, self.profile)
        return module if self.part is None else module.get_submodule(self.part)

    def load(self) -> tuple[dict[str, Any], State]:
        modified = self.path.stat().st_mtime_ns if self.path.is_file() else 0
        config, state = _load(self.path, modified, self.task, self.profile)
        if self.part is None:
            return deepcopy(config), state
        for name in self.part.split("."):
            config = config[name]
        tower = f"{self.part}."
        return deepcopy(config), {k.removeprefix(tower): v for k, v in state.items() if k.startswith(tower)}


def restored(model: Any) -> Any:
    """The module that ``model`` is or stands for."""
    return model.module if isinstance(model, Trained) else model


@lru_cache(maxsize=2)
def _load(path: Path, modified: int, task: str, profile: str | None) -> tuple[dict[str, Any], State]:
    checkpoint = merged(Trained(path, task, profile).checkpoint)
    built = build_task(checkpoint)
    return checkpoint["config"]["task"][name_of_learned(built)], averaged(built, path, profile).state_dict()
