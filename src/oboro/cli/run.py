"""Errors as a user meets them: one line that says what is wrong and what to do, and a non-zero exit status."""

import errno
import functools
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from oboro import sweep
from oboro.base.command import as_typed, import_from_here
from oboro.base.errors import UserError
from oboro.cli.checkpoint import offer_checkpoint
from oboro.cli.init import offer_init
from oboro.restore.trust import trusted_words, trusting

CONF = (Path(__file__).parents[1] / "conf").resolve()  # in a clone a link to the folder at the top
TEXTS = ("prompt", "negative", "data.prompt", "data.prior_prompt")  # keys whose values are sentences
CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC}


def run(main: Callable[[], None], from_checkpoint: bool = False, gather: Callable[[Path], None] | None = None) -> None:
    """Call a ``hydra.main`` function through ``oboro.sweep.run``; a mistake of the user ends in one line on stderr and
    exit status 1.

    ``from_checkpoint``: the options of that name are made from the argument ``checkpoint=PATH``, else from
    ``init=PATH``. ``gather`` is told the folder of a sweep when it is over.
    ``debug=default`` or ``HYDRA_FULL_ERROR=1`` show the traceback. Other exceptions are ours and always do.
    """
    parser = get_args_parser()
    parser.error = unknown_flag  # in place of argparse's own report
    traceback = "debug=default" in sys.argv or "traceback=true" in sys.argv or "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us instead of Hydra's own report
    sys.argv[1:] = [quote_text(expand_home(argument)) for argument in sys.argv[1:]]
    try:
        own_folder = parser.parse_args(sys.argv[1:]).config_dir
        packages = trusted_words(sys.argv[1:])[1]
        if packages or own_folder or not from_checkpoint:  # a checkpoint alone imports nothing from where it lies
            import_from_here()
        with trusting(packages):
            if from_checkpoint:
                offer_checkpoint(sys.argv[1:])
            else:
                sys.argv[1:] = offer_init(sys.argv[1:])
            sweep.run(main, gather)
    except Exception as error:
        message = explain(error)
        if traceback or message is None:
            raise
        raise SystemExit(f"error: {message}" if is_first_process() else 1) from None


def unknown_flag(message: str) -> NoReturn:
    raise UserError(f"{message}; `{as_typed(sys.argv[0])} --hydra-help` lists the flags.")


def expand_home(argument: str) -> str:
    """``data.root=~/photos`` with the home folder: shells leave it as it is, and Hydra's grammar has no ``~``."""
    key, equals, value = argument.partition("=")
    return key + equals + os.path.expanduser(value) if value.startswith("~/") else argument


def quote_text(argument: str) -> str:
    """``prompt=a shoe, black`` as one text: to Hydra's grammar it would be two values of a sweep."""
    key, _, value = argument.partition("=")
    if key not in TEXTS or value in ("", "null") or value[0] in "[\"'":
        return argument
    escaped = re.sub(r'(\\*)"', r"\1\1\"", value)
    ending = len(escaped) - len(escaped.rstrip("\\"))  # a backslash before the closing quote would escape it
    return f'{key}="{escaped}' + "\\" * ending + '"'


def task_function(f: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Ends a single run at once with its message, before Hydra adds lines; a sweep goes on with its next job."""

    @functools.wraps(f)
    def wrapped(config: DictConfig) -> None:
        try:
            with trusting(config.get("trust")):
                f(config)
        except Exception as error:
            message = explain(error)
            if message is None or config.get("traceback") or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            raise SystemExit(f"error: {message}" if is_first_process() else 1) from None

    return wrapped


def is_first_process() -> bool:
    """Ranks started by Lightning repeat the mistakes of the first one; they stay silent."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def explain(error: BaseException) -> str | None:
    """The one line for a user's mistake; None for anything else."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno in CANNOT_WRITE:
            return f"cannot write {cause.filename}: {cause.strerror}; choose another folder with hydra.run.dir=..."
        cause = cause.__cause__  # not __context__: a defect met while an error was handled is a defect
    text = " ".join(str(error).split())
    if isinstance(error, MisconfigurationException):
        return text
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"{error.full_key} has no value; set {error.full_key}=..."
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        where = re.search(r"full_key: (\S+)", str(error))
        return f"{where.group(1) if where else 'trainer'} cannot be built: {error.__cause__}; change its values."
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain_config(text)
    return None


def explain_config(text: str) -> str:
    """Hydra's message in one line, with the option or key that was probably meant."""
    if cause := re.search(r"UserError raised while resolving interpolation: (.*?)( full_key: |$)", text):
        return cause.group(1)
    if option := re.search(r"Could not find '([\w/]+)/([^/']*)'", text):
        group, name = option.groups()
        if group in ("hydra/sweeper", "hydra/launcher"):
            return (
                f"{group}={name} is not installed; `pip install hydra-optuna-sweeper` or the like, see docs/sweeps.md."
            )
        options = sorted({p.stem for folder in folders() for p in (folder / group).glob("*.yaml")})
        return f"{group}={name} does not exist; choose {group}={'|'.join(options)}.{meant(name, options, f'{group}=')}"
    if key := re.search(r"Could not override '([^']+)'", text):
        name = key.group(1)
        if "No match in the defaults list" in text:
            return f"there is no group {name}; `{as_typed(sys.argv[0])} --help` lists groups and options."
        part = "hydra" if name.startswith("hydra.") else "job"
        return f"there is no key {name}; `{as_typed(sys.argv[0])} --cfg {part}` lists them.{meant_key(name)}"
    return text


def folders() -> list[Path]:
    """Where options lie: in the folder of ``--config-dir``, if one is given, and in oboro's."""
    own = get_args_parser().parse_known_args(sys.argv[1:])[0].config_dir
    return [*([Path(own)] if own and Path(own).is_dir() else []), CONF]


def meant(name: str, names: list[str], prefix: str = "") -> str:
    close = get_close_matches(name, names, 1)
    return f" Did you mean {prefix}{close[0]}?" if close else ""


def meant_key(key: str) -> str:
    """The key in the option files of ``key``'s group, or the group or key at the root, that resembles its last part."""
    group, _, name = key.rpartition(".")
    pattern = f"{group}/*.yaml" if group else f"{Path(sys.argv[0]).stem}.yaml"
    files = [file for folder in folders() for file in folder.glob(pattern)]
    names = {m for file in files if file.is_file() for m in re.findall(r"^(\w+):", file.read_text(), re.M)}
    if not group:
        names |= {p.name for folder in folders() for p in folder.iterdir() if p.is_dir()}
    return meant(name, sorted(names - {"defaults", "_target_"}), f"{group}." if group else "")
