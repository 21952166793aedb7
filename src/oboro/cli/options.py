"""The groups of options, and words of the command line that choose among them."""

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from hydra._internal.config_repository import ConfigRepository
from hydra._internal.utils import get_args_parser

from oboro.base.errors import UserError
from oboro.base.grammar import parsed

CONF = (Path(__file__).parents[1] / "conf").resolve()  # in a clone a link to the folder at the top
SEVERAL = ("callbacks", "distance", "logger", "metrics")  # groups of which a run may have any number of options
OPTIONAL = ("experiment", "debug", "hparams_search")  # groups of which it may have none
NOTHING = (None, False, "", [])
# Commands in which a key is a value that is a group in others: hint=edges of train, hint=photo.png of sample.
VALUES = {"sample": ("hint",), "edit": ("hint",)}


def folders() -> list[Path]:
    """Where options lie: in the folder of ``--config-dir``, if one is given, and in oboro's."""
    own = get_args_parser().parse_known_args(sys.argv[1:])[0].config_dir
    return [*([Path(own)] if own and Path(own).is_dir() else []), CONF]


def options(group: str) -> list[str]:
    return sorted({path.stem for folder in folders() for path in (folder / group).glob("*.yaml")})


def meant(name: str, names: list[str], prefix: str = "", rest: str = "") -> str:
    close = get_close_matches(name, names, 1)
    return f" Did you mean {prefix}{close[0]}{rest}?" if close else ""


def choosing(words: list[str], values: Collection[str] = ()) -> list[str]:
    """``words`` with those that choose nothing in Hydra's way: ``callbacks=null`` as ``callbacks=[]``, and without
    ``experiment=null``; ``values`` are keys and no groups here. Raises ``UserError`` where a choice is none, or
    several, or at a place of values."""
    return [part for word in words for part in ([word] if word.partition("=")[0] in values else choice(word))]


@contextmanager
def without_groups(names: Collection[str]) -> Iterator[None]:
    """Hydra does not take a key for a group because there are options of that name, which another command has."""
    before = ConfigRepository.group_exists

    def group_exists(self: ConfigRepository, config_path: str) -> bool:
        return config_path not in names and before(self, config_path)

    ConfigRepository.group_exists = group_exists
    try:
        yield
    finally:
        ConfigRepository.group_exists = before


def choice(word: str) -> list[str]:
    key, equals, value = word.partition("=")
    name = key.lstrip("+").partition("@")[0]
    group, override = name.replace(".", "/"), parsed(word)
    if not equals or word.startswith(("~", "-")) or not options(group) or override is None or "${" in value:
        return [word]
    if override.is_sweep_override():
        return [word]
    meaning = override.value()
    if "." in name:
        if isinstance(meaning, str) and meaning:
            raise UserError(f"{name} is a group within a group; write {group}={choose(group, meaning)}")
        return [word]
    if meaning in NOTHING and name in SEVERAL:
        return [f"{key}=[]"]
    if meaning in NOTHING and name in OPTIONAL:
        return []
    if meaning in NOTHING:
        raise UserError(f"{word} chooses nothing, and a run needs one; choose {name}={'|'.join(options(group))}.")
    if isinstance(meaning, list) and name not in SEVERAL:
        raise UserError(f"{word} are several, and a run has one; choose one, or add -m and write {name}={value[1:-1]}.")
    if not isinstance(meaning, str | list):
        raise UserError(f"{word} does not exist; choose {name}={'|'.join(options(group))}.")
    return [word]


def choose(group: str, name: str) -> str:
    """``name`` and a full stop, or all options where it is none of them."""
    known = options(group)
    return f"{name}." if name in known else f"{'|'.join(known)}.{meant(name, known, f'{group}=')}"
