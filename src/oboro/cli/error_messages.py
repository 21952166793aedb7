"""Errors in one line for the user: what is wrong and what to do."""

import errno
import re
import sys
from difflib import get_close_matches
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from oboro.base.command import as_typed
from oboro.base.errors import UserError

CONF = (Path(__file__).parents[1] / "conf").resolve()  # in a clone a link to the folder at the top
CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC}


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
    if type(error).__name__ == "MisconfigurationException":  # of Lightning, which may not be imported yet
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
