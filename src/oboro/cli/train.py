"""oboro train, python train.py"""

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig

import oboro.strategy  # noqa: F401, registers trainer.strategy=fsdp2
from oboro.base.errors import UserError
from oboro.base.lightning_trainer import seconds_of
from oboro.base.secret import visible
from oboro.base.signature import located
from oboro.callbacks.checkpoints import Checkpoints
from oboro.callbacks.run_end import RunEnd
from oboro.callbacks.unfinished import measured
from oboro.cli.faults import explained
from oboro.cli.fit import fit
from oboro.cli.folder import AUTO
from oboro.cli.launcher import care_for
from oboro.cli.mistakes_of_ranks import is_first_process
from oboro.cli.offered import OPTION
from oboro.cli.plan import plan
from oboro.cli.prepare import built_parts, chosen_callbacks, in_steps, quiet, resolved
from oboro.cli.resume import check_alone, file_named, wiring
from oboro.cli.resume_auto import choice
from oboro.cli.running import mark
from oboro.cli.same_start import SameStart
from oboro.cli.watchdog import Watchdog
from oboro.logger import built as built_loggers
from oboro.report.table import write_result
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.frozen import part_of
from oboro.restore.rebuild import check_fits
from oboro.restore.resume import NothingLeft, go_on
from oboro.task.training_cost import BEFORE, evaluations_before

log = logging.getLogger(__name__)


def train(config: DictConfig) -> None:
    """Build what the configuration names, check that it fits together, train; results go to ``output_dir``."""
    quiet()
    if config.plan:
        plan(config)
        return
    plain, parts, stored = resolved(config)
    if is_over(config, stored):
        return
    init, former_run = (load_checkpoint(path) if path else None for path in (config.init, config.resume))
    stored[BEFORE] = evaluations_before(init, former_run)
    remark_callbacks(plain)
    built = built_parts(config, plain, parts, stored)
    task, data, callbacks = built.task, built.data, built.callbacks
    step = None if choice() is None else 0  # a run that begins where one has ended without a checkpoint
    if config.resume:
        check_fits(task, load_checkpoint(config.resume))
        for name, part in task.frozen.items():  # which are read before Lightning restores what is trained
            part.load_state_dict(part_of(load_checkpoint(config.resume)["state_dict"], name))
        step = load_checkpoint(config.resume)["global_step"]
    former = Path(config.resume).parent.parent if config.resume else None
    loggers = built_loggers(plain["logger"], Path(config.output_dir), data.batch_size, step, former)
    settings = in_steps(plain["trainer"], callbacks)
    max_time, min_steps = settings.pop("max_time", None), settings.pop("min_steps", None)
    end = RunEnd(seconds_of(max_time), min_steps or 0)
    callbacks += [Watchdog(config.rank_timeout), SameStart(config.resume), end]
    trainer = instantiate(settings, callbacks=callbacks, logger=loggers, _convert_="all")
    care_for(trainer.strategy)
    mark(Path(config.output_dir), finished=False)
    with explained(trainer, data):
        fit(trainer, task, data, config.resume)
    if trainer.is_global_zero and (numbers := measured(trainer)):
        write_result(Path(config.output_dir), numbers)


def compared(config: DictConfig, stored: dict[str, Any]) -> list[str]:
    """What to say of a run that goes on from ``config.resume``, which becomes the path of a file. Raises ``UserError``
    where it cannot go on."""
    check_alone(config.resume, config.init)
    config.resume = str(file_named(config.resume))
    return go_on(stored, load_checkpoint(config.resume), config.resume, wiring)


def is_over(config: DictConfig, stored: dict[str, Any]) -> bool:
    """Whether ``resume=auto`` finds a run that came to its end; says what a run goes on from, and with what changes.

    Raises ``UserError`` where a run cannot go on.
    """
    auto = choice()
    if config.resume == AUTO:
        raise UserError("resume=auto is for single runs and for jobs that are processes; add hydra/launcher=processes")
    if auto is not None:
        show(auto.lines)
    if not config.resume:
        return False
    try:
        changes = compared(config, stored)
    except NothingLeft:
        if auto is None:
            raise
        changes = None
    if changes is None or (auto is not None and auto.ends(changes)):
        show([f"the run in {config.output_dir} is finished; nothing is left to do"])
        return True
    show(changes)
    return False


def show(lines: Sequence[str]) -> None:
    """On stderr, and in train.log."""
    for line in lines:
        log.info(visible(line))
        if is_first_process():
            print(visible(line), file=sys.stderr)


def remark_callbacks(plain: dict[str, Any]) -> None:
    """What is typed in the place of the list leaves all others out, ``callbacks=snapshots`` the checkpoints."""
    kinds = [located(node["_target_"]) for node in chosen_callbacks(plain).values()]
    if any(isinstance(kind, type) and issubclass(kind, Checkpoint | Checkpoints) for kind in kinds):
        return
    for word in HydraConfig.get().overrides.task:
        key, _, value = word.partition("=")
        if key == "callbacks" and OPTION not in value:  # these are the checkpoint's and not typed
            way = (
                f"to add one write +callbacks={value}" if value.isidentifier() else "add checkpoints to callbacks=[...]"
            )
            warnings.warn(
                f"{word} replaces all other callbacks, and no checkpoint will be written; {way}.", stacklevel=1
            )
