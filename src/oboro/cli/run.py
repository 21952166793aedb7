"""How the entry points run: a mistake of the user ends in one line and a non-zero exit status."""

import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from oboro import sweep
from oboro.base.command import as_typed, import_from_here
from oboro.base.errors import UserError
from oboro.cli.checkpoint import offer_checkpoint
from oboro.cli.error_messages import explain
from oboro.cli.init import offer_init
from oboro.cli.resume import offer_resume
from oboro.restore.trust import trusted_words, trusting

TEXTS = ("prompt", "negative", "data.prompt", "data.prior_prompt")  # keys whose values are sentences


def run(main: Callable[[], None], from_checkpoint: bool = False, gather: Callable[[Path], None] | None = None) -> None:
    """Call a ``hydra.main`` function through ``oboro.sweep.run``; a mistake of the user ends in one line on stderr and
    exit status 1.

    ``from_checkpoint``: the options of that name are made from the argument ``checkpoint=PATH``, else from
    ``init=PATH`` or ``resume=PATH``. ``gather`` gets the folder of a sweep when it is over.
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
                sys.argv[1:] = offer_init(offer_resume(sys.argv[1:]))
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
