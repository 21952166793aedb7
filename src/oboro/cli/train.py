"""oboro train, python train.py"""

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from omegaconf import DictConfig, OmegaConf

import oboro.strategy  # noqa: F401, registers trainer.strategy=fsdp2
from oboro.base.environment import from_environment
from oboro.base.errors import UserError
from oboro.base.lightning_trainer import seconds_of
from oboro.base.paths import with_absolute_paths
from oboro.base.secret import visible, without_secrets
from oboro.base.signature import located
from oboro.callbacks.best import in_order
from oboro.callbacks.checkpoints import Checkpoints
from oboro.callbacks.run_end import RunEnd
from oboro.callbacks.unfinished import measured
from oboro.cli.base import KEY as BASE
from oboro.cli.base import base_of, check_base
from oboro.cli.device import check_device, check_nodes, resolve_precision
from oboro.cli.faults import explained
from oboro.cli.fit import fit
from oboro.cli.folder import AUTO
from oboro.cli.launcher import care_for
from oboro.cli.mistakes_of_ranks import is_first_process
from oboro.cli.offered import OPTION
from oboro.cli.resume import check_alone, file_named, wiring
from oboro.cli.resume_auto import choice
from oboro.cli.running import mark
from oboro.cli.same_start import SameStart
from oboro.cli.settings import Training, check_settings
from oboro.cli.settle import remark_unread_data, settle
from oboro.cli.unread import refuse_unread_hint
from oboro.cli.watchdog import Watchdog
from oboro.data import DataModule
from oboro.logger import built
from oboro.report.table import write_result
from oboro.restore import State, inlined, load_parts
from oboro.restore.beside import BESIDE, kept
from oboro.restore.checkpoint import BUILT, load_checkpoint
from oboro.restore.frozen import part_of
from oboro.restore.plain import check_plain
from oboro.restore.rebuild import check_fits
from oboro.restore.resume import NothingLeft, go_on
from oboro.restore.start import start_from
from oboro.restore.trust import check_storable, targets
from oboro.restore.wrapped import take_parts
from oboro.task import Task
from oboro.task.training_cost import BEFORE, evaluations_before
from oboro.teacher import pinned

log = logging.getLogger(__name__)

# Of the groups and values of a run, what its checkpoints hold; a task need not have all of them.
STORED = ("task", "data", "extractor", "metrics", "sampler", "guidance", "seed", "output_dir", *BESIDE)


def train(config: DictConfig) -> None:
    """Build what the configuration names, check that it fits together, train; results go to ``output_dir``."""
    quiet()
    plain, parts, stored = resolved(config)
    if is_over(config, stored):
        return
    init, former_run = (load_checkpoint(path) if path else None for path in (config.init, config.resume))
    stored[BEFORE] = evaluations_before(init, former_run)
    remark_callbacks(plain)
    lightning.seed_everything(config.seed, verbose=False)  # initial weights, the same on every rank
    data: DataModule = instantiate(plain["data"], _convert_="all")
    remark_unread_data(data)
    task: Task = instantiate(plain["task"], _convert_="all")
    started = set() if config.init is None else start_from(task, plain["task"], config.init, config.init_profile)
    load_parts(task, parts)
    if (base := base_of(config)) is not None:
        started |= take_parts(task, base, list(parts))
    learned = started | {place.partition(".")[0] for place in parts} | (set(task.frozen) if config.resume else set())
    check_frozen(task, learned)
    task.config = stored
    task.check(data)
    task.check_training(data)
    if task.needs_start and not (config.init or config.resume):
        raise UserError("an adapter trains beside weights that are trained already; give init=<a checkpoint>.")
    callbacks = in_order(list(instantiate(chosen_callbacks(plain), _convert_="all").values()))
    step = None if choice() is None else 0  # a run that begins where one has ended without a checkpoint
    if config.resume:
        check_fits(task, load_checkpoint(config.resume))
        for name, part in task.frozen.items():  # which are read before Lightning restores what is trained
            part.load_state_dict(part_of(load_checkpoint(config.resume)["state_dict"], name))
        step = load_checkpoint(config.resume)["global_step"]
    former = Path(config.resume).parent.parent if config.resume else None
    loggers = built(plain["logger"], Path(config.output_dir), data.batch_size, step, former)
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


def resolved(config: DictConfig) -> tuple[dict[str, Any], dict[str, State], dict[str, Any]]:
    """The configuration in plain containers, the weights of the parts that exist already, and what checkpoints hold of
    it."""
    written = OmegaConf.to_container(config)
    named = targets(written, [group for group in written if group not in BESIDE])
    check_storable(target for target in named if "${" not in str(target))
    check_base(config)
    check_settings(config, Training, resolve=False)
    check_device(config.trainer.accelerator, config.trainer.devices, "trainer.")
    config.trainer.precision = resolve_precision(
        str(config.trainer.precision), str(config.trainer.accelerator), "trainer.precision"
    )
    settle(config, *(("init", config.init) if config.init is not None else (BASE, base_of(config))))
    refuse_unread_hint(config)
    check_settings(config, Training)
    check_nodes(config.trainer.get("num_nodes", 1))
    if config.init_profile is not None and config.init is None:
        raise UserError(
            f"init_profile={config.init_profile} chooses an average of the checkpoint in init, and there is none; add "
            "init=<a checkpoint>, or leave init_profile out."
        )
    plain: dict[str, Any] = with_absolute_paths(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    check_storable(targets(plain, BUILT))
    plain["task"], parts = inlined(plain["task"])
    plain["task"] = pinned(plain["task"])
    stored = without_secrets(kept({key: plain[key] for key in STORED if key in plain}), from_environment(config))
    check_plain(stored)
    return plain, parts, stored


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


def check_frozen(task: Task, learned: set[str]) -> None:
    """Raises ``UserError`` where a part that is not trained here has weights and is not among the ``learned``."""
    ways = {
        "codec": "codec=trained codec.path=<a checkpoint of task=autoencoder>",
        "conditioner": "conditioner=text conditioner.encoder.path=<a checkpoint of task=clip>",
        "denoiser.network.base": "model.base.path=<a checkpoint of task=diffusion>",
    }
    for name, part in task.frozen.items():
        if not learned & {name, name.partition(".")[0]} and any(True for _ in part.parameters()):
            way = ways.get(name, f"a stored part for task.{name}, such as oboro.restore.Trained")
            raise UserError(f"the {name} {type(part).__name__} has learned nothing yet; choose {way}.")


def chosen_callbacks(plain: dict[str, Any]) -> dict[str, Any]:
    """Without those of which an experiment sets values and ``callbacks=[...]`` leaves out."""
    return {name: node for name, node in plain["callbacks"].items() if "_target_" in node}


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


def in_steps(trainer: dict[str, Any], callbacks: list[Callback]) -> dict[str, Any]:
    """The settings with ``val_check_interval``, which Lightning counts in micro-batches, meant in optimizer steps; a
    run that is shorter than ``log_every_n_steps`` logs at its end, and Lightning's own bar, which counts epochs, never
    shows."""
    check_ends(trainer)
    interval = trainer["val_check_interval"]
    counted = interval * trainer["accumulate_grad_batches"] if isinstance(interval, int) else interval
    logged, last = trainer["log_every_n_steps"], trainer["max_steps"]
    if isinstance(logged, int) and isinstance(last, int) and last > 0:
        logged = min(logged, last)
    bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    return {**trainer, "val_check_interval": counted, "log_every_n_steps": logged, "enable_progress_bar": bar}


def check_ends(trainer: dict[str, Any]) -> None:
    """Raises ``UserError`` where a run shall end, or not end, after epochs that there are none of, or never."""
    endless = trainer.get("limit_train_batches") in (None, 1.0) and not trainer.get("overfit_batches")
    for name in ("max_epochs", "min_epochs"):
        epochs, steps = trainer.get(name), name.replace("epochs", "steps")
        if endless and epochs not in (None, -1, 0):
            raise UserError(
                f"trainer.{name}={epochs}: the stream of training samples is endless and has no epochs; count in "
                f"steps, trainer.{steps}=<{epochs} x training samples / data.batch_size>."
            )
    least, most = trainer.get("min_steps"), trainer["max_steps"]
    if least is not None and least > most:
        raise UserError(f"trainer.min_steps={least} is more than trainer.max_steps={most}; lower it.")


def quiet() -> None:
    """Advice of the libraries that does not apply: the loader needs no workers, CPU training is meant."""
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.distributed"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*module\\(s\\) in eval mode at the start of training.*")  # frozen parts
    warnings.filterwarnings("ignore", ".*GPU available but not used.*")
    warnings.filterwarnings("ignore", ".*FSDP2-wrapped module .* returned a view tensor.*")  # nobody writes to it
    warnings.filterwarnings("ignore", ".*Total length of `DataLoader` across ranks is zero.*")  # data.validation=0
    warnings.filterwarnings("ignore", ".*It is recommended to use `self.log.*sync_dist=True.*")  # already gathered
    warnings.filterwarnings("ignore", ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
