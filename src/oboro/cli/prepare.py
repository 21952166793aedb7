"""What a run is made of: the parts that its configuration names, built and held against each other."""

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import lightning
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, ProgressBar
from omegaconf import DictConfig, OmegaConf

from oboro.base.environment import from_environment
from oboro.base.errors import UserError
from oboro.base.paths import with_absolute_paths
from oboro.base.remark import remark
from oboro.base.secret import without_secrets
from oboro.callbacks.best import in_order
from oboro.cli.base import KEY as BASE
from oboro.cli.base import base_of, check_base
from oboro.cli.device import check_device, check_nodes, resolve_precision
from oboro.cli.settings import Training, check_settings
from oboro.cli.settle import remark_unread_data, settle
from oboro.cli.unread import refuse_unread_hint
from oboro.data import DataModule
from oboro.restore import State, inlined, load_parts
from oboro.restore.beside import BESIDE, kept
from oboro.restore.checkpoint import BUILT
from oboro.restore.plain import check_plain
from oboro.restore.start import start_from
from oboro.restore.trust import check_storable, targets
from oboro.restore.wrapped import take_parts
from oboro.task import Task
from oboro.teacher import pinned

# Of the groups and values of a run, what its checkpoints hold; a task need not have all of them.
STORED = ("task", "data", "extractor", "metrics", "sampler", "guidance", "seed", "output_dir", *BESIDE)


@dataclass(frozen=True)
class Built:
    """The parts of a run."""

    task: Task
    data: DataModule
    callbacks: list[Callback]


def built_parts(config: DictConfig, plain: dict[str, Any], parts: dict[str, State], stored: dict[str, Any]) -> Built:
    """Task, data and callbacks of what ``resolved`` gives, with the weights that they start from; raises ``UserError``
    where they do not fit together."""
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
    tuned = getattr(task.loss, "teacher", None) is None and hasattr(task.loss, "curriculum")
    if tuned and task.loss.curriculum.from_denoiser and not (config.init or config.resume):
        remark(
            f"{type(task.loss).__name__} with the curriculum Easy tunes a trained denoiser and begins from random "
            "weights here; set init=<its checkpoint>, or choose loss/curriculum=discrete."
        )
    if task.needs_start and not (config.init or config.resume):
        raise UserError("an adapter trains beside weights that are trained already; give init=<a checkpoint>.")
    callbacks = in_order(list(instantiate(chosen_callbacks(plain), _convert_="all").values()))
    return Built(task, data, callbacks)


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
