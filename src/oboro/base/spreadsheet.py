"""Texts in CSV files: a spreadsheet takes one that begins with = + - @ for a formula, and computes it."""

from typing import TypeVar

T = TypeVar("T")
MARKS, AS_TEXT = ("=", "+", "-", "@", "\t", "\r"), "'"


def as_text(value: T) -> T | str:
    """``value`` as it is, and a text that would be a formula after an apostrophe, with which it is none; numbers in
    texts stay numbers."""
    if not isinstance(value, str) or not value.startswith(MARKS):
        return value
    try:
        float(value)
    except ValueError:
        return AS_TEXT + value
    return value


def original(text: str) -> str:
    """The inverse of ``as_text``."""
    return text[1:] if text.startswith(AS_TEXT) and as_text(text[1:]) == text else text
