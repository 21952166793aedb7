"""Several extractors for one set of samples."""

from collections.abc import Sequence

from oboro.extractor.extractor import Extractor


class Joint:
    """The same images seen by every one of ``extractors``: FID and FD-DINOv2 of one set of samples, as in EDM2; final.

    Each metric is computed on every part that has the outputs it needs.
    """

    def __init__(self, extractors: Sequence[Extractor]):
        self.parts = list(extractors)
