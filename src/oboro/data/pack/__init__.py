"""Any source of pictures into a packed folder, which ``data=streaming`` reads."""

from oboro.data.pack.pack import Packing, pack

__all__ = ["Packing", "pack"]
