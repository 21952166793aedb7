"""Texts in CSV files: a spreadsheet takes one that begins with = + - @ for a formula, and computes it."""

from typing import TypeVar

T = TypeVar("T")
MARKS, AS_TEXT = ("=", "+", "-", "@", "\t", "\r"), "'"


def as_text(value: T) -> T | str:
    """``value`` as it is, and a text that would be a formula after an apostrophe, with which it is none; numbers in
    texts stay numbers."""
    return AS_TEXT + value if isinstance(value, str) and _is_formula(value) else value


def original(text: str) -> str:
    """The inverse of ``as_text``."""
    return text[1:] if text.startswith(AS_TEXT) and _is_formula(text[1:]) else text


def _is_formula(text: str) -> bool:
    """Or one after apostrophes, so that what is written can be told from what is meant."""
    if not text.lstrip(AS_TEXT).startswith(MARKS):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
