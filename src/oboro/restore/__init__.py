"""What other runs learned: checkpoints, parts of them, and training that starts from them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oboro.restore.stored import State, Stored, inlined, load_parts
    from oboro.restore.trained import Trained

__all__ = ["State", "Stored", "Trained", "inlined", "load_parts"]


def __getattr__(name: str) -> Any:
    """The names above, imported when they are used: ``oboro.restore.trust`` is read by every command before torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from oboro.restore import stored, trained

    return getattr(trained if name == "Trained" else stored, name)
