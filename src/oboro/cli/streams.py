"""stdout and stderr that cannot end a run: of any encoding, closed, full, or with nobody at the other end."""

import codecs
import errno
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

# What the program prints beside ASCII, for terminals that know nothing else.
PLAIN = {"×": "x", "±": "+-", "→": "->", "…": "...", "–": "-", "—": "-", "≤": "<=", "≥": ">=", "²": "^2", "·": "."}
HANDLER = "oboro.plain"


def plainly(error: UnicodeError) -> tuple[str, int]:
    """An error handler of ``codecs``: what an encoding lacks, in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(plain, error.object[error.start : error.end])), error.end


def plain(character: str) -> str:
    """``e`` for ``é``, ``->`` for ``→``, and an escape where nothing is close."""
    if character in PLAIN:
        return PLAIN[character]
    base = unicodedata.normalize("NFKD", character)[0]
    return base if base.isascii() else character.encode("ascii", "backslashreplace").decode()


codecs.register_error(HANDLER, plainly)


class Stream:
    """The text stream ``inner``. From the first ``failure`` to write to it on, what is written goes nowhere."""

    def __init__(self, inner: TextIO):
        self._inner = inner
        self.failure: OSError | None = None
        if hasattr(inner, "reconfigure"):
            inner.reconfigure(errors=HANDLER)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, text: str) -> int:
        self._attempt(lambda: self._inner.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._attempt(self._inner.flush)

    def _attempt(self, f: Any) -> None:
        if self.failure is not None:
            return
        try:
            f()
        except OSError as error:
            self.failure = error
            discard(self._inner)

    @property
    def reader_gone(self) -> bool:
        return self.failure is not None and self.failure.errno in (errno.EPIPE, errno.ESHUTDOWN)


def discard(stream: TextIO) -> None:
    """What the stream holds back and the interpreter will flush once more goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def opened(stream: TextIO | None, number: int) -> TextIO:
    """``stream``, or, where the program was started with it closed, one that goes nowhere; no file that is opened later
    gets its number, to which libraries may write."""
    if stream is not None:
        return stream
    try:
        os.fstat(number)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
    return open(os.devnull, "w", encoding="utf-8")


@contextmanager
def streams() -> Iterator[tuple[Stream, Stream]]:
    """stdout and stderr in the block; those of the block around it where there is one."""
    before = sys.stdout, sys.stderr
    out, err = (s if isinstance(s, Stream) else Stream(opened(s, n)) for s, n in zip(before, (1, 2), strict=True))
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out, err
    finally:
        out.flush()
        err.flush()
        if before != (out, err):
            sys.stdout, sys.stderr = before
