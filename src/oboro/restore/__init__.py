"""What other runs learned: checkpoints, parts of them, and training that starts from them."""

from oboro.restore.stored import State, Stored, inlined, load_parts
from oboro.restore.trained import Trained

__all__ = ["State", "Stored", "Trained", "inlined", "load_parts"]
