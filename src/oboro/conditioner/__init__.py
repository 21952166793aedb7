"""Conditioners: batch ↦ cond."""

from oboro.conditioner.conditioner import Batch, Conditioner
from oboro.conditioner.label import Label
from oboro.conditioner.published import PublishedCLIP, PublishedEmptyText, PublishedOpenCLIP, PublishedT5
from oboro.conditioner.text import Text
from oboro.conditioner.unconditional import Unconditional

__all__ = [
    "Batch",
    "Conditioner",
    "Label",
    "PublishedCLIP",
    "PublishedEmptyText",
    "PublishedOpenCLIP",
    "PublishedT5",
    "Text",
    "Unconditional",
]
