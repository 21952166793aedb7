"""Keys, tokens and passwords: what is saved and printed has ``HIDDEN`` in their place.

A value is secret where the name of its key or of its variable of the environment says so (``api_key``, ``HF_TOKEN``),
and between user and host of an address. What a configuration takes from the environment is not kept either, unless it
is a path or a number: ``oc.env`` notes what it reads.
"""

import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from omegaconf import OmegaConf
from omegaconf.resolvers import oc

HIDDEN = "_hidden_"  # a word of Hydra's grammar and of YAML, and none that means anything
SHORTEST = 4  # characters of a variable that is looked for in texts
_PLAIN = r"token|secret|password|passwd|passphrase|credentials?"
# Of tokenizers, of textual inversion, and names of the fields of a sample, as in latent diffusion.
_MARKS = (
    r"(?!(?:[\w.\-/@]*[_.\-/])?(?:(?:bos|eos|pad|unk|sep|cls|mask|start|end|placeholder|initializer|class|image|special)"
    r"_token|(?:image|caption|text|txt|label|cls|cond|condition|stage|mask|hint|target|input|sort|group)_key)(?![\w.\-/@]))"
)
_NAME = re.compile(
    rf"{_MARKS}(?:(?:[\w.\-/@]*[_.\-/])?(?:{_PLAIN})|[\w.\-/@]+[_.\-]key|[\w.\-/@]*(?:apikey|authtoken))", re.IGNORECASE
)
_VALUE = r"(?!\$\{|\.\.\.|null\b|None\b|_hidden_)(?:\"[^\"]*\"|'[^']*'|[^,;}\]'\"\n]+)"
# A name and what follows: with = anywhere, with : in a mapping, or where no sentence has such a name.
_GIVEN = re.compile(
    rf"((?<![\w.\-/@])(?:{_NAME.pattern})=|[{{,]\s*['\"]?(?:{_NAME.pattern})['\"]?:\s*"
    rf"|(?<![\w.\-/@]){_MARKS}(?:[\w.\-/@]+[_.\-](?:key|{_PLAIN}))['\"]?:\s+){_VALUE}",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"(://[^\s/@:'\"]*):[^\s/@'\"]+@")

_secrets: set[str] = set()  # values of variables with such names that were read
_read: ContextVar[list[str] | None] = ContextVar("read", default=None)

Place = tuple[str | int, ...]


def is_secret(name: object) -> bool:
    """Whether a key or a variable of this name holds a secret."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def hide(text: str) -> str:
    """``text`` without the values of secret variables that were read, of secret keys and of passwords in addresses."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    if "=" in text or ":" in text:
        text = _GIVEN.sub(rf"\g<1>{HIDDEN}", text)
        text = _ADDRESS.sub(rf"\g<1>:{HIDDEN}@", text)
    return text


def visible(text: str) -> str:
    """``text`` as it may be printed: without secrets, and with what a terminal would obey (escape sequences, marks that
    turn the direction of writing) as escapes."""
    text = hide(text)
    if text.isprintable():
        return text
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return shown.encode("utf-8", "backslashreplace").decode()


def register(concealed: bool = False) -> None:
    """Let ``${oc.env:NAME}`` note what it reads; ``concealed``: secret variables are ``HIDDEN``, for a configuration
    that is only printed."""

    def env(*arguments: Any) -> str | None:
        value, name = oc.env(*arguments), str(arguments[0])
        if (names := _read.get()) is not None:
            names.append(name)
        if value is None or not is_secret(name):
            return value
        if concealed:
            return HIDDEN
        if len(value) >= SHORTEST:
            _secrets.add(value)
        return value

    OmegaConf.register_new_resolver("oc.env", env, replace=True)


@contextmanager
def noted() -> Iterator[list[str]]:
    """The names of the variables that ``oc.env`` reads in the block."""
    names: list[str] = []
    token = _read.set(names)
    try:
        yield names
    finally:
        _read.reset(token)


def without_secrets(node: Any, places: Container[Place] = (), place: Place = ()) -> Any:
    """A copy of plain containers with ``HIDDEN`` for texts with secret names, for those at ``places``, and for
    passwords in addresses. Of what is interpolated the reference stays."""
    if isinstance(node, Mapping):
        return {
            key: HIDDEN
            if is_secret(key) and isinstance(child, str) and child and not child.startswith("${")
            else without_secrets(child, places, (*place, key))
            for key, child in node.items()
        }
    if isinstance(node, list | tuple):
        return [without_secrets(child, places, (*place, i)) for i, child in enumerate(node)]
    if not isinstance(node, str):
        return node
    return HIDDEN if place in places else hide(node)


def first_hidden(node: Any, place: str = "") -> str | None:
    """The name of the first value that is, or has in it, ``HIDDEN``."""
    if isinstance(node, str):
        return place if HIDDEN in node else None
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    names = (first_hidden(child, f"{place}.{key}".lstrip(".")) for key, child in children)
    return next((name for name in names if name is not None), None)
