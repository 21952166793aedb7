"""What one sample is: its shape, how it is stored, shown and written. Everything else asks it."""

from oboro.modality.image import Image, from_uint8, to_uint8
from oboro.modality.modality import Modality
from oboro.modality.series import Series

__all__ = ["Image", "Modality", "Series", "from_uint8", "to_uint8"]
