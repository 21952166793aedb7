"""Several extractors for one set of samples."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Len

from oboro.extractor.extractor import Extractor


class Joint:
    """The same images seen by every one of ``extractors``: FID and FD-DINOv2 of one set of samples, as in EDM2; final.

    Each metric is computed on every part that has the outputs it needs.
    """

    def __init__(self, extractors: Annotated[Sequence[Extractor], Len(1, 16)]):
        self.parts = list(extractors)
