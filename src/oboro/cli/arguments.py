"""What is typed, and how Hydra gets it.

Hydra's grammar gives a meaning to commas, brackets, braces, backslashes and ``=``, and knows no accents. Paths and
sentences have all of them. So their values go to Hydra in quotes, unless the grammar reads just what was typed, or the
user wrote quotes or a list. What follows is decided before anything is composed, by the name of the key and by which
files exist.
"""

import argparse
import os
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal.utils import get_args_parser

from oboro.base.errors import UserError
from oboro.base.grammar import parsed, quoted

SENTENCES = ("prompt", "source_prompt", "negative", "data.prompt", "data.prior_prompt")
# The last part of keys that hold a path. tests/cli/test_arguments.py compares them with the signatures of all options.
PATH = re.compile(
    r"(.*_)?(root|path|folder|dir|file)|checkpoint|init|resume|images?|to|truth|watch|hints?|controls|mask|measured|"
    r"reference|shards|rerun_failed"
)
BY_SIGNAL = (["scales"], ["image_channels"], ["hint_channels"])  # numbers by names of signals, image among them
READ = ("checkpoint", "init", "resume", "images", "image", "to", "truth", "watch")  # paths of what has to be there
MULTIRUN = ("-m", "--multirun", "hydra.mode=MULTIRUN")


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """``arguments`` as Hydra reads them right: flags first, then ``key=value``. Raises ``UserError`` for what cannot be
    read."""
    flags, words = separated(arguments)
    several = any(argument in MULTIRUN for argument in arguments)
    return [*flags, *(readable(word, several) for word in words)]


def separated(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and the rest: argparse would refuse ``a=1 -m b=2``."""
    takes: dict[str, argparse.Action] = {
        option: action for action in get_args_parser()._actions for option in action.option_strings
    }
    flags, words, rest = list[str](), list[str](), list(arguments)
    while rest:
        word = rest.pop(0)
        (flags if word.startswith("-") else words).append(word)
        action = takes.get(word)
        if action is not None and rest:
            value_follows = rest[0] in (action.choices or ()) if action.nargs == "?" else action.nargs is None
            flags += [rest.pop(0)] if value_follows else []
    return flags, words


def readable(word: str, several: bool) -> str:
    """``word`` with its value in quotes where that is what was meant; ``several``: commas may separate the values of a
    sweep."""
    key, equals, value = word.partition("=")
    name = key.lstrip("+~")
    if not word.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in word):
        raise UserError(f"the value of {ascii(key)[1:-1]} is not UTF-8; rename the file, or give a link to it.")
    if equals and value:
        if name in SENTENCES:
            value = sentence(name, value)
        elif PATH.fullmatch(name.rpartition(".")[2]) and name.split(".")[-2:-1] not in BY_SIGNAL:
            value = path(name, value, several)
        else:
            value = plain(name, value, several)
    result = key + equals + value
    if parsed(result) is None:
        if not equals and parsed(f"{word}=1"):
            raise UserError(f"{word} has no value; write {word}=...")
        if parsed(f"{key}=1") is None:
            raise UserError(f"{word} is no key=value; put the whole of it in quotes if it has spaces.")
        remedy = shlex.quote(f"{key}={quoted(value)}")
        raise UserError(f"{word} cannot be read; close its brackets and quotes, or quote a text: {remedy}.")
    return result


def sentence(name: str, value: str) -> str:
    """One text, ``null``, or a list of texts."""
    if value == "null" or (value[0] in "[\"'" and parsed(f"key={value}") is not None):
        return value
    return texts(name, value) if is_list(value) else literal(name, value)


def path(name: str, value: str, several: bool) -> str:
    """A path, ``null``, or a list of paths. What exists is meant as it was typed."""
    if value == "null":
        return value
    value, meaning = home(value), read(value)
    if os.path.lexists(value):
        return value if read(value) == value and "${" not in value else literal(name, value)
    if "${" in value:
        return value if meaning is not None else f'"{value}"'
    if re.match(r"\w+\(.*\)$", value) and meaning is not None and several:  # choice(...), glob(...)
        return value
    parts = split(value)
    if several and len(parts) > 1:
        paths = whole(parts)
        if name in READ and not os.path.splitext(paths[0])[1] and not any(map(os.path.lexists, map(home, paths))):
            raise UserError(
                f"{name}={value} names nothing that exists, as a comma separates the values of a sweep; put a path "
                f"that has one in quotes: {shlex.quote(f'{name}={quoted(value)}')}."
            )
        return ",".join(path(name, one, False) for one in paths)
    if isinstance(meaning, str) and (meaning == value or value[0] in "\"'" or os.path.lexists(meaning)):
        return value
    if is_list(value):
        return value if isinstance(meaning, list) else texts(name, value)
    if value[0] == "{" and isinstance(meaning, dict):  # paths by name
        return value
    if len(parts) > 1 and all(os.path.lexists(part) for part in parts):
        return value  # for Hydra to say that these are several
    return literal(name, value)


def whole(parts: list[str]) -> list[str]:
    """Neighbours among ``parts`` joined by commas where that names a file: a/x,y/b of a, x and y/b."""
    paths = []
    while parts:
        count = next((k for k in range(len(parts), 1, -1) if os.path.lexists(home(",".join(parts[:k])))), 1)
        paths.append(",".join(parts[:count]))
        parts = parts[count:]
    return paths


def plain(name: str, value: str, several: bool) -> str:
    """Any other value: what the grammar does not read can only be a text, unless a bracket or quote was left open."""
    if value.startswith("~/"):
        value = home(value)
    parts = split(value)
    if not several and len(parts) > 1 and os.path.lexists(value):
        return literal(name, value)
    if parsed(f"key={value}") is not None or value[0] in "[{\"'":
        return value
    if several and len(parts) > 1:
        return ",".join(part and plain(name, part, False) for part in parts)
    return literal(name, value)


def read(value: str) -> Any:
    """What Hydra's grammar makes of a value; None where it does not read it, or for null."""
    override = parsed(f"key={value}")
    return None if override is None else override.value()


def literal(name: str, text: str) -> str:
    """``text`` in quotes. Raises ``UserError`` where parts of a run would take it for an interpolation."""
    if "${" in text and "." in name:
        raise UserError(f"{name}={text} has ${{, which a configuration takes for a reference; choose another name.")
    return quoted(text)


def texts(name: str, value: str) -> str:
    """A list whose elements are texts."""
    parts = [part.strip() for part in split(value[1:-1])]
    return "[" + ",".join(part if read(part) == part else literal(name, part) for part in parts) + "]"


def is_list(value: str) -> bool:
    return value.startswith("[") and value.endswith("]")


def home(value: str) -> str:
    """``~/photos`` with the home folder: shells leave it as it is, and Hydra's grammar has no ``~``. A file that is
    called so is ``./~file``, here and for all who expand once more."""
    if not value.startswith("~"):
        return value
    expanded = os.path.expanduser(value)
    return f"./{value}" if os.path.lexists(value) or expanded == value else expanded


def split(value: str) -> list[str]:
    """Parts between commas outside of quotes, brackets and braces; all of it where these do not match."""
    closing: Callable[[str], str] = {"[": "]", "{": "}", "(": ")"}.get
    parts, open_ = [""], list[str]()
    for letter in value:
        if letter == "," and not open_:
            parts.append("")
            continue
        parts[-1] += letter
        if open_ and letter == open_[-1]:
            open_.pop()
        elif letter in "\"'" and not (open_ and open_[-1] in "\"'") and parts[-1].strip() == letter:
            open_.append(letter)
        elif letter in "[{(" and not (open_ and open_[-1] in "\"'"):
            open_.append(closing(letter))
    return [value] if open_ else parts
