"""Numbers of things in messages."""

ENDINGS = {"classes": "class", "patches": "patch", "ies": "y", "s": ""}  # of a plural: of one
ALIKE = ("series",)


def counted(number: int, plural: str) -> str:
    """``1,000 images``, ``1 image``, ``1 class``."""
    return f"{number:,} {plural if number != 1 else one_of(plural)}"


def one_of(plural: str) -> str:
    """``classes`` as ``class``; words before the last one, adjectives, stay."""
    if plural.endswith(ALIKE):
        return plural
    end = next((end for end in ENDINGS if plural.endswith(end)), "")
    return plural.removesuffix(end) + ENDINGS.get(end, "")
