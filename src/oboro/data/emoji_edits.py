"""Edits of emoji: the same one by the other vendor or in another skin tone, with an instruction that says so."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Unpack

import numpy as np

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.base.ranges import BelowOne
from oboro.base.seeding import derive_seed
from oboro.data.cache import HINT, Block, Source
from oboro.data.decode_or_skip import Picture, decoded
from oboro.data.emoji import PACKAGES, Drawing, missing_in, read_packages, skin, wording
from oboro.data.image_data import ImageData, ImageSettings
from oboro.data.split import Rows, split_rows

VENDOR, TONE = "vendor", "tone"  # what an edit changes
INSTRUCTIONS = {
    VENDOR: (
        "in the style of {to}",
        "make it in the style of {to}",
        "redraw it in the style of {to}",
        "turn it into an emoji in the style of {to}",
        "the same emoji in the style of {to}",
    ),
    TONE: (
        "with {to} skin",
        "give it {to} skin",
        "give it a {to} skin tone",
        "make the skin {to}",
        "change the skin tone to {to}",
    ),
}
NO_TONE = "yellow"  # skin of no tone


@dataclass(frozen=True)
class Edit:
    """Picture ``after`` is what ``instruction`` makes of ``before``; both are places in a list of drawings."""

    before: int
    after: int
    kind: str
    instruction: str


class EmojiEdits(ImageData):
    """Pairs of pictures of ``Emoji``: the sample is what comes after an edit, its hint the picture before, its caption
    the instruction. Brooks et al. 2022 (arXiv:2211.09800) generate such pairs; these are real.

    - *vendor*: the same emoji in the same skin tone by the other vendor, both ways: "redraw it in the style of google";
    - *tone*: the same emoji by the same vendor in any other skin tone, yellow included: "give it dark skin".

    An instruction has one of five forms, fixed for each pair. ``tone_share`` is the share of pairs that change the
    tone: of every picture equally many are taken, to one. There are 7,572 of the other kind, which all stay, and 35,500
    in all of this one, half of them of the 13 emoji that show two people; None takes them. With ``labels="vendor"`` the
    label is that of the picture after.

    Held out are the emoji that ``Emoji`` holds out with the same ``seed`` and ``validation``, which counts pictures of
    it, or is a share of them: neither of a pair nor of a model of ``Emoji`` has training seen what is held out.

    Raises ``UserError`` where ``tone_share`` asks for more pairs than there are.
    """

    def __init__(
        self,
        *,
        root: LocalPath | None = None,
        tone_share: BelowOne | None = 0.5,
        labels: Literal["vendor"] | None = None,
        **settings: Unpack[ImageSettings],
    ):
        super().__init__(**settings)
        self.root = Path(root).expanduser() if root else None
        self.tone_share, self.labels = tone_share, labels

    def source(self) -> Source:
        names = tuple(PACKAGES) if self.labels else ()
        key = wording(INSTRUCTIONS, NO_TONE, self.tone_share) + (self.labels or "")
        return Source(key, len(names), self._blocks, names=names, notes=missing_in(self.root))

    def divide(self, count: int, groups: np.ndarray | None) -> Rows:
        """As ``Emoji`` divides its pictures: each of them is the picture before of one change of vendor."""
        assert groups is not None
        emoji, is_tone = groups // 2, groups % 2 == 1
        pictures = emoji[~is_tone]
        _, *held_out = split_rows(len(pictures), self.held_out, self.tested, pictures, self.seed)
        validation, test = (np.isin(emoji, pictures[rows]) for rows in held_out)
        return Rows(*map(np.flatnonzero, (~(validation | test), validation, test)))

    def _blocks(self) -> Iterator[Block]:
        drawings, files, groups = read_packages(self.root, self.cache_dir)
        vendors = list(PACKAGES)

        def picture(edit: Edit) -> Picture:
            after = drawings[edit.after]
            return Picture(
                f"{after.vendor} {after.image}",
                files[edit.after],
                vendors.index(after.vendor) if self.labels else None,
                edit.instruction,
                2 * groups[edit.before] + (edit.kind == TONE),  # as divide() takes it apart
                {HINT: files[edit.before]},
            )

        edits = edits_of(drawings, self.tone_share)
        return decoded(
            map(picture, edits),
            self.modality.shape,
            place="the edits of emoji",
            total=len(edits),
            hint_channels=self.modality.shape[0],
        )


def edits_of(drawings: Sequence[Drawing], tone_share: float | None) -> list[Edit]:
    """All changes of vendor, then changes of tone so that they are ``tone_share`` of all; each in the order of the
    pictures before."""
    variants: defaultdict[str, list[int]] = defaultdict(list)
    for i, drawing in enumerate(drawings):
        variants[drawing.subject].append(i)
    vendors, tones = [], []
    for i, before in enumerate(drawings):
        others = []
        for j in variants[before.subject]:
            after = drawings[j]
            if after.tones == before.tones and after.vendor != before.vendor:
                vendors.append(edit(drawings, i, j, VENDOR, after.vendor))
            elif after.vendor == before.vendor and skin(after.tones) != skin(before.tones):
                others.append(edit(drawings, i, j, TONE, skin(after.tones) or NO_TONE))
        others.sort(key=lambda e: order(drawings, e))
        tones += list(enumerate(others))
    if tone_share is not None:
        wanted = round(tone_share / (1 - tone_share) * len(vendors))
        if wanted > len(tones):
            most = len(tones) / (len(tones) + len(vendors))
            raise UserError(
                f"data.tone_share={tone_share}: at most {most:.2f} of the pairs change the skin tone; set "
                "data.tone_share=null to take all"
            )
        tones = sorted(tones, key=lambda ranked: (ranked[0], order(drawings, ranked[1])))[:wanted]
    return vendors + sorted((e for _, e in tones), key=lambda e: (e.before, e.after))


def edit(drawings: Sequence[Drawing], before: int, after: int, kind: str, to: str) -> Edit:
    forms = INSTRUCTIONS[kind]
    form = forms[derive_seed(0, f"instruction {pair(drawings[before], drawings[after])}") % len(forms)]
    return Edit(before, after, kind, form.format(to=to))


def order(drawings: Sequence[Drawing], e: Edit) -> int:
    """A number by which edits are in a random order that never changes."""
    return derive_seed(0, f"edit {pair(drawings[e.before], drawings[e.after])}")


def pair(before: Drawing, after: Drawing) -> str:
    """A name for two pictures of one emoji."""
    return f"{before.subject} {before.vendor} {before.tones} {after.vendor} {after.tones}"
