"""No condition at all."""

from collections.abc import Sequence
from typing import Any

from oboro.conditioner.conditioner import Conditioner, Single
from oboro.data import Population


class Unconditional(Conditioner):
    """batch ↦ the empty condition."""

    @property
    def singles(self) -> Sequence[Single]:
        return []

    def metadata(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        return {}
