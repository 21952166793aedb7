"""How the commands of Hydra run: ``oboro train``, ``sample``, ``edit``, ``evaluate``, ``detect``.

What Hydra does before a job (``--help``, ``--cfg``, flags, composing) needs none of the libraries that compute. So
nothing that this module imports may import torch, Lightning or matplotlib; those who need them are imported inside of
functions here and where checkpoints are read (``oboro.restore.checkpoint``): the module of the command when its job
starts, ``oboro.cli.init`` for ``init=PATH``, ``oboro.cli.base`` for ``model.base.path=PATH``,
``oboro.cli.benchmark`` when a sweep is over.
"""

import inspect
import io
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from oboro import sweep
from oboro.base import interrupt
from oboro.base.command import as_typed, import_from_here
from oboro.base.errors import UserError
from oboro.base.grammar import is_true, quoted, values
from oboro.base.secret import register, without_secrets
from oboro.base.waiting import wait_without_spinning
from oboro.base.yaml_file import check_yaml
from oboro.cli.arguments import MULTIRUN, for_hydra
from oboro.cli.checkpoint import offer_checkpoint
from oboro.cli.claim import FolderKnown, Refused, claimed, give_sweep_back
from oboro.cli.composed_once import composed_once
from oboro.cli.ending import ending, sentence
from oboro.cli.folder import AUTO
from oboro.cli.help import overview
from oboro.cli.inner_choices import typed_choices_stand_alone
from oboro.cli.mistakes_of_ranks import is_first_process
from oboro.cli.options import CONF, VALUES, choosing, without_groups
from oboro.cli.ranks import kill_ranks, supervised
from oboro.cli.running import LOCK, release_all
from oboro.cli.unread import refuse_unknown
from oboro.restore.trust import trusted_words, trusting

FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
FROM_CHECKPOINT = ("sample", "edit", "evaluate", "detect")  # what these begin with comes from checkpoint=PATH
# Of tasks whose checkpoints a command takes; others take what draws.
KINDS = {"detect": ("diffusion", "autoencoder")}
LAUNCHERS = {"evaluate": "processes"}  # hydra/launcher of their conf/<name>.yaml
# Resolvers of option files, and the functions that their modules register.
RESOLVERS = {
    "stored": "oboro.restore.stored.value_of",
    "condition": "oboro.conditioner.conditioner.width",
    "loss": "oboro.loss.loss.declared",
    "hint_factor": "oboro.restore.wrapped.hint_factor",
}


def run(name: str) -> None:
    """The command ``name``: compose ``conf/<name>.yaml`` and call the function ``name`` of ``oboro.cli.<name>``,
    through ``oboro.sweep.run``.

    A mistake of the user ends in one line on stderr and exit status 1. ``debug=default``, ``traceback=true`` or
    ``HYDRA_FULL_ERROR=1`` show the traceback. Other exceptions are ours and always do.
    """
    if is_first_process():  # what other ranks would meet are its ranks
        wait_without_spinning()
    parser = get_args_parser()
    parser.error = unknown_flag  # in place of argparse's own report
    debugging = "debug=default" in sys.argv or any(map(is_true, values(sys.argv[1:], "traceback")))
    traceback = debugging or "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us instead of Hydra's own report
    logging.raiseExceptions = False  # what cannot be logged is no reason for a traceback
    with ending(traceback):
        sys.argv[1:] = choosing(for_hydra(sys.argv[1:]), VALUES.get(name, ()))
        flags = parser.parse_args(sys.argv[1:])
        if flags.help:
            print(overview(name))
            return
        if flags.config_dir:
            check_options(Path(flags.config_dir).expanduser())
        packages = trusted_words(sys.argv[1:])[1]
        if (
            packages or flags.config_dir or name not in FROM_CHECKPOINT
        ):  # a checkpoint alone imports nothing from its folder
            import_from_here()
        register_resolvers()
        kept = [Path(str(f)) for f in values(sys.argv[1:], "hydra.run.dir") if Path(str(f)).exists()]
        main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job(name, kept))
        try:
            with (
                trusting(packages),
                without_groups(VALUES.get(name, ())),
                typed_choices_stand_alone(),
                composed_once(),
            ):
                # in a context of its own: what resume=auto chose ends with the command
                copy_context().run(compose_and_run, name, main, not (flags.cfg or flags.info))
        except Refused as refused:
            raise refused.error from None
        finally:
            give_sweep_back()
            release_all()


def check_options(folder: Path) -> None:
    """Raises ``UserError`` for an option file of ``folder`` that cannot be read: Hydra would not say which."""
    for group in (path.name for path in CONF.iterdir() if path.is_dir()):
        for path in (folder / group).rglob("*.yaml"):
            try:
                check_yaml(path)
            except (ValueError, OSError) as error:
                raise UserError(f"{path} cannot be read ({error}); correct or remove it.") from error


def compose_and_run(name: str, main: Callable[[], None], runs: bool) -> None:
    """Offer what checkpoints have and call ``main``; twice where ``resume=auto`` is in a folder that only the composed
    configuration names. ``runs``: Hydra is not asked for the configuration alone."""
    offer(name, runs)
    try:
        sweep.run(main, gather(name))
        return
    except FolderKnown as known:
        sys.argv += [f"hydra.run.dir={quoted(str(known.folder))}", f"resume={AUTO}"]
    offer(name, runs)
    sweep.run(main, gather(name))


def offer(name: str, runs: bool) -> None:
    """Make the options ``from_checkpoint`` of the checkpoint that the command line names."""
    if name in FROM_CHECKPOINT:
        offer_checkpoint(sys.argv[1:], KINDS.get(name, ("diffusion",)), LAUNCHERS.get(name, "basic"))
    elif any(argument.startswith(("init=", "resume=", "model.base.path=")) for argument in sys.argv[1:]):
        from oboro.cli.base import offer_base
        from oboro.cli.init import offer_init
        from oboro.cli.resume import offer_resume
        from oboro.cli.resume_auto import settle_auto

        if not any(argument in MULTIRUN for argument in sys.argv[1:]):  # the jobs of a sweep have folders of their own
            sys.argv[1:] = settle_auto(sys.argv[1:], runs)
        sys.argv[1:] = offer_base(offer_init(offer_resume(sys.argv[1:])))


def job(name: str, kept: Sequence[Path]) -> Callable[[DictConfig], None]:
    """What Hydra calls with a composed configuration. A single run ends at once with its message, before Hydra adds
    lines; a sweep goes on with its next job."""

    def start(config: DictConfig) -> None:
        in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        with (
            ending(is_true(config.get("traceback")) or in_sweep),
            interrupt.handled(speaks=is_first_process(), at_once=kill_ranks),
        ):
            with (
                claimed(name, config),
                without_an_empty_folder(name, kept),
                trusting(config.get("trust")),
                supervised(),
            ):
                work = getattr(import_module(f"oboro.cli.{name}"), name)
                hide_in_files(Path(HydraConfig.get().runtime.output_dir) / ".hydra")
                warnings.formatwarning = warning_line  # which Lightning sets, too, when it is imported
                plain_terminal()
                refuse_unknown(config)
                work(config)
            if in_sweep:
                interrupt.check()  # a signal that came too late for this job ends those after it

    start.__module__ = f"oboro.cli.{name}"  # the name of the job, and of its log
    return start


def hide_in_files(folder: Path) -> None:
    """Secrets that were typed are not kept in what Hydra saved of the command line and the configuration."""
    for path in folder.rglob("*.yaml") if is_first_process() else ():
        texts = yaml.load(
            path.read_text(encoding="utf-8"), FAST
        )  # its numbers may be texts: of 1e-5 the dot is missing
        if without_secrets(texts) != texts:
            saved = OmegaConf.to_container(OmegaConf.load(path))
            OmegaConf.save(OmegaConf.create(without_secrets(saved)), path)


@contextmanager
def without_an_empty_folder(name: str, kept: Sequence[Path]) -> Iterator[None]:
    """If the block ends in an exception, the folder that Hydra made for the run goes unless the run wrote to it, or
    it is among those ``kept``, which were there before; and that of its day."""
    try:
        yield
    except (Exception, interrupt.Interrupted):
        if is_first_process():
            with suppress(OSError):  # the folder may have gone meanwhile, and what ended the run is the answer
                remove_empty(Path(HydraConfig.get().runtime.output_dir), name, kept)
        raise


def remove_empty(folder: Path, name: str, kept: Sequence[Path]) -> None:
    if any(folder.samefile(other) for other in kept):
        return
    if {path.name for path in folder.iterdir()} <= {".hydra", f"{name}.log", LOCK}:
        shutil.rmtree(folder, ignore_errors=True)
        if re.fullmatch(r"\d{4}-\d\d-\d\d", folder.parent.name) and not any(folder.parent.iterdir()):
            folder.parent.rmdir()


class OneLine(logging.Formatter):
    """``warning: <one sentence>.``, as warnings of other libraries are shown; the log file has time and place."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {sentence(record.getMessage())}"


def plain_terminal() -> None:
    """Of what is logged the terminal shows warnings and worse, on stderr; the file is UTF-8 wherever it is written."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and isinstance(handler.stream, io.TextIOWrapper):
            handler.stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        if type(handler) is logging.StreamHandler:
            handler.setLevel(logging.WARNING)
            handler.setStream(sys.stderr)
            handler.setFormatter(OneLine())


def warning_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning without the line of a program that raised it."""
    return f"warning: {sentence(str(message))}\n"


def gather(name: str) -> Callable[[Path], None] | None:
    """What is done with the folder of a sweep that is over."""
    if name != "evaluate":
        return None

    def benchmark(folder: Path) -> None:
        from oboro.cli.benchmark import benchmark

        benchmark(folder)

    return benchmark


def register_resolvers() -> None:
    """For ``--cfg job --resolve``: resolvers that import their modules when they are used."""
    register(concealed=any(word in ("-c", "--cfg") or word.startswith("--cfg=") for word in sys.argv[1:]))
    for name, function in RESOLVERS.items():
        if not OmegaConf.has_resolver(name):
            OmegaConf.register_new_resolver(name, imported_later(function))


def imported_later(path: str) -> Callable[..., Any]:
    """A resolver that is the function ``path``."""

    def resolver(*keys: str, _parent_: Any, _root_: Any) -> Any:
        module, _, name = path.rpartition(".")
        function, nodes = getattr(import_module(module), name), {"_parent_": _parent_, "_root_": _root_}
        return function(*keys, **{k: node for k, node in nodes.items() if k in inspect.signature(function).parameters})

    return resolver


def unknown_flag(message: str) -> NoReturn:
    raise UserError(f"{message}; `{as_typed(sys.argv[0])} --hydra-help` lists the flags.")
