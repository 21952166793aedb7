"""Whether the classes that are asked for are those of the data."""

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.data.cache import Source
from oboro.data.report import listed
from oboro.data.store import Store


def check_classes(num_classes: int, source: Source) -> None:
    """Raises ``UserError`` where ``num_classes`` is neither 0 nor the number of classes of ``source``."""
    count = source.classes
    if num_classes and not count:
        raise UserError(f"data.num_classes={num_classes}, but the samples have no labels; set data.num_classes=0")
    if num_classes and num_classes != count:
        raise UserError(
            f"the data has {counted(count, 'classes')}{listed(source.names)}, not {num_classes}; set "
            f"data.num_classes={count}"
        )


def check_labels(num_classes: int, store: Store) -> None:
    """Raises ``UserError`` for a label out of range: it would be drawn, and counted, as another class."""
    if not num_classes or store.labels is None:
        return
    low, high = int(store.labels.min()), int(store.labels.max())
    if low < 0 or high >= num_classes:
        odd = low if low < 0 else high
        raise UserError(
            f"a sample has the label {odd} and classes are 0 to {num_classes - 1}; correct the labels, or set "
            "data.num_classes=0 to ignore them"
        )
