"""Conditioners: batch ↦ condition."""

from oboro.conditioner.conditioner import Batch, Conditioner, Single
from oboro.conditioner.control import Control
from oboro.conditioner.image import Image
from oboro.conditioner.joint import Joint
from oboro.conditioner.label import Label
from oboro.conditioner.published import PublishedCLIP, PublishedEmptyText, PublishedOpenCLIP, PublishedT5
from oboro.conditioner.text import Text
from oboro.conditioner.unconditional import Unconditional

__all__ = [
    "Batch",
    "Conditioner",
    "Control",
    "Image",
    "Joint",
    "Label",
    "PublishedCLIP",
    "PublishedEmptyText",
    "PublishedOpenCLIP",
    "PublishedT5",
    "Single",
    "Text",
    "Unconditional",
]
