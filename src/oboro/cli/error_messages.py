"""Errors in one line for the user: what is wrong and what to do."""

import errno
import re
import sys

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from oboro.base.command import as_typed
from oboro.base.errors import UserError, first_line, is_out_of_memory
from oboro.cli.options import SEVERAL, folders, meant, options
from oboro.cli.unknown_key import explain_key

CANNOT_WRITE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC),
    *(errno.EISDIR, errno.ENAMETOOLONG),
}


def explain(error: BaseException) -> str | None:
    """The one line for a user's mistake; None for anything else."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno in CANNOT_WRITE:
            return f"cannot write {cause.filename}: {cause.strerror}; choose another folder with hydra.run.dir=..."
        cause = cause.__cause__  # not __context__: a defect met while an error was handled is a defect
    if is_out_of_memory(error):
        return f"memory ran out ({first_line(error)}); use a device with more, or compute less at once, chunk=..."
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
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{missing[1]} has no value; set {missing[1]}=..."
    if option := re.search(r"Could not (?:find|load) '([\w/]+)/([^/']*)'", text):
        group, name = option.groups()
        if group in ("hydra/sweeper", "hydra/launcher"):
            return (
                f"{group}={name} is not installed; `pip install hydra-optuna-sweeper` or the like, see docs/sweeps.md."
            )
        known = options(group)
        form = f"{group}=[...] of " if group in SEVERAL else f"{group}="
        return f"{group}={name} does not exist; choose {form}{'|'.join(known)}.{meant(name, known, f'{group}=')}"
    if key := re.search(r"Could not override '([^']+)'", text):
        if "No match in the defaults list" in text:
            groups = sorted({path.name for folder in folders() for path in folder.iterdir() if path.is_dir()})
            command = as_typed(sys.argv[0])
            if key[1] in groups:
                return f"{command} has no use for {key[1]}; leave it out."
            everything = f"`{command} --help` lists groups and options"
            return f"there is no group {key[1]}; {everything}.{meant(key[1], groups)}"
        return explain_key(key[1])
    if several := re.search(r"Ambiguous value for argument '([^']*=[^']*)'", text):
        name, _, value = several[1].partition("=")
        return f"{several[1]} are several values; add -m to run with each, or write {name}=[{value}] for a list."
    if twice := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"there is {twice[1]} already; leave out the plus."
    if folder := re.search(r"Additional config directory '([^']*)' not found", text):
        return f"there is no folder {folder[1]}; give --config-dir one that holds options, such as sampler/mine.yaml."
    return text
