"""What every source of series shares: channels, and their mean and standard deviation."""

from typing import ClassVar, Unpack

import numpy as np

from oboro.base.errors import UserError
from oboro.base.ranges import Width
from oboro.data.data_module import DataModule, Settings
from oboro.data.store import Samples, Store
from oboro.modality import Series

_ROWS = 4096  # summed at a time


class SeriesSettings(Settings, total=False):
    """Those of every data source, and one of series."""

    channels: Width


class SeriesData(DataModule):
    """Series (C, L), float32, standardised by the mean and the deviation of each channel of the training split.

    - ``channels``: how many there are, since the network is built for that number.

    A subclass gives ``source()``, whose blocks decide the length L, and perhaps ``names`` of the channels. Their
    statistics are known once the data are read, which the first one to ask for ``modality`` brings about. Raises
    ``UserError`` for another number of channels, and for a channel that never changes.
    """

    defaults: ClassVar[SeriesSettings] = {"channels": 1}
    noun = Series.noun
    names: tuple[str, ...] = ()

    def __init__(self, **settings: Unpack[SeriesSettings]):
        given = self.complete(settings)
        self.channels = given.pop("channels")
        super().__init__(**given)
        self._modality: Series | None = None

    @property
    def modality(self) -> Series:
        if self._modality is None:
            self.prepare_data()
            self.setup()
        return self._modality

    def describe(self, store: Store) -> None:
        if len(store.shape) != 3:
            raise ValueError(f"blocks of series are (n, C, L), these are {store.shape}")
        _, channels, length = store.shape
        if channels != self.channels:
            raise UserError(
                f"data.channels={self.channels} and the series have {channels} of {length} numbers; set "
                f"data.channels={channels}"
            )
        mean, std = moments(self.train.samples)
        self._modality = Series(length, mean, std, self.names)


def moments(samples: Samples) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (C,) of each channel of ``samples`` (n, C, L), in two passes in float64.

    A channel whose deviation is below the rounding of its numbers in float32 never changes: 0.
    """
    rows = [np.arange(start, min(start + _ROWS, len(samples))) for start in range(0, len(samples), _ROWS)]
    mean = sum(samples[r].double().sum((0, 2)) for r in rows) / (len(samples) * samples.shape[2])
    squares = sum((samples[r].double() - mean[:, None]).square().sum((0, 2)) for r in rows)
    std = (squares / (len(samples) * samples.shape[2])).sqrt()
    std[std <= 1e-7 * mean.abs()] = 0
    return mean.tolist(), std.tolist()
