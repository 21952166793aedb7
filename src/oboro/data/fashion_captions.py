"""Fashion-MNIST with a sentence for each picture: text-image data that need no download."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal, Unpack

from oboro.base.paths import LocalPath
from oboro.base.seeding import derive_seed
from oboro.data.cache import Block, Source
from oboro.data.fashion_mnist import FashionMNIST
from oboro.data.image_data import ImageData, ImageSettings

NAMES = (  # of each class; the first is the one that prompts use
    ("a t-shirt", "a tee", "a top", "a t-shirt with short sleeves"),
    ("trousers", "a pair of trousers", "pants", "long trousers"),
    ("a pullover", "a sweater", "a jumper", "a pullover with long sleeves"),
    ("a dress", "a gown", "a one-piece dress", "a dress for women"),
    ("a coat", "a jacket", "an overcoat", "a warm coat"),
    ("a sandal", "an open shoe", "a strappy sandal", "a summer shoe"),
    ("a shirt", "a blouse", "a buttoned shirt", "a shirt with a collar"),
    ("a sneaker", "a trainer", "a sports shoe", "a running shoe"),
    ("a bag", "a handbag", "a purse", "a bag with a handle"),
    ("an ankle boot", "a boot", "a bootie", "a high shoe"),
)
TEMPLATES = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "a grey picture of {}",
    "a black and white photo of {}",
    "a small photo of {}",
    "a product photo of {}",
    "{} on a black background",
)


def caption(row: int, label: int) -> str:
    """One of the sentences that template and name make: a function of the row, uniform over both."""
    names = NAMES[label]
    draw = derive_seed(0, "fashion caption", row) % (len(TEMPLATES) * len(names))
    return TEMPLATES[draw // len(names)].format(names[draw % len(names)])


class FashionCaptions(ImageData):
    """The pictures, labels and parts of ``FashionMNIST``, each with a caption like "a grey picture of an ankle boot".

    A caption says the class and nothing else of its picture. ``classes`` are the ten kinds in the order of the labels,
    ``prompts`` a plain sentence for each of them.
    """

    classes = (
        "t-shirt",
        "trousers",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    prompts = tuple(f"a photo of {names[0]}" for names in NAMES)

    defaults: ClassVar[ImageSettings] = {"channels": 1, "resolution": 28, "num_classes": 10, "validation": 1000}

    def __init__(
        self,
        *,
        part: Literal["train", "test"] = "train",
        root: LocalPath | None = None,
        **settings: Unpack[ImageSettings],
    ):
        super().__init__(**settings)
        self._pictures = FashionMNIST(part=part, root=root, **settings)

    def unread(self) -> dict[str, str]:
        return self._pictures.unread()

    def source(self) -> Source:
        pictures = self._pictures.source()
        wording = hashlib.sha256(repr((NAMES, TEMPLATES)).encode()).hexdigest()
        return Source(
            pictures.key + wording, pictures.classes, lambda: _captioned(pictures.blocks()), notes=pictures.notes
        )


def _captioned(blocks: Iterator[Block]) -> Iterator[Block]:
    row = 0
    for block in blocks:
        labels = block.labels.tolist()
        yield replace(block, captions=[caption(row + i, label) for i, label in enumerate(labels)])
        row += len(labels)
