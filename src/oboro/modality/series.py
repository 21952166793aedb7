"""Series of numbers at equal distances: measurements over time, or along a line."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import PIL.Image
import torch
from annotated_types import Len
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.finite import check_finite
from oboro.base.ranges import Entries, Positive
from oboro.modality.modality import Modality, sizes
from oboro.modality.table import SUFFIXES, read_table, write_table

CELL = (1.7, 1.1)  # inches of one plot
GAP = 0.08  # between plots, as a share of one
LEGEND = 8  # channels that are named; more would hide the plots


class Series(Modality):
    """C channels of ``length`` numbers, (C, length), float32 in the units of the data.

    For the model each channel is standardised, (x − mean) / std, with the ``mean`` (C,) and ``std`` (C,) of the
    training data. ``names`` are those of the channels, where the data have any. Shown as a grid of line plots with one
    scale; written as CSV: a column for each channel, in the first line their names.

    Raises ``UserError`` unless every standard deviation is above 0.
    """

    noun = "series"
    dtype = torch.float32
    quantisation = "float32"
    layout = "numbers (n, C, length)"
    suffixes = SUFFIXES
    size_option = "data.window"

    def __init__(
        self,
        length: Entries,
        mean: Annotated[Sequence[float], Len(1)],
        std: Annotated[Sequence[Positive], Len(1)],
        names: Sequence[str] = (),
    ):
        self.mean, self.std, self.names = (tuple(values) for values in (mean, std, names))
        self.shape = (len(self.mean), length)
        for channel, spread in enumerate(self.std):
            if not spread > 0:
                raise UserError(
                    f"{self.name_of(channel)} is {self.mean[channel]:g} everywhere in the training data and teaches "
                    "nothing; leave it out, for CSV files with data.columns=[...]."
                )

    def name_of(self, channel: int) -> str:
        """``"temperature"``, or ``"channel 0"`` where channels have no names."""
        return self.names[channel] if self.names else f"channel {channel}"

    def to_model(self, stored: Tensor) -> Tensor:
        mean, std = self._statistics(stored)
        return (stored.float() - mean) / std

    def to_stored(self, x: Tensor) -> Tensor:
        mean, std = self._statistics(x)
        series = x.float() * std + mean
        check_finite(
            series, "series", "the weights may have diverged; take an earlier checkpoint, or precision=32-true"
        )
        return series

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(torch.tensor(v, dtype=torch.float32, device=like.device)[:, None] for v in (self.mean, self.std))

    def picture(self, stored: Tensor, columns: int) -> PIL.Image.Image:
        return plots(stored, columns, [self.name_of(c) for c in range(self.shape[0])])

    def write(self, stored: Tensor, path: Path) -> Path:
        path = path.with_name(path.name + self.suffixes[0])
        write_table(path, stored.T.numpy(), self.names)
        return path

    def read(self, path: Path) -> Tensor:
        values, _ = read_table(path, self.names or None)
        series = torch.from_numpy(values.T.copy())
        if tuple(series.shape) != self.shape:
            raise UserError(
                f"{path} holds {sizes(tuple(series.shape))} numbers (channels × length) and the series of the data "
                f"have {self}; give files of one series each, of that size."
            )
        return series

    def to_array(self, stored: Tensor) -> np.ndarray:
        return stored.numpy()

    def check_array(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if dtype.kind not in "fiu" or len(shape) != 3 or not shape[0]:
            raise ValueError(self.layout)
        if shape[1:] != self.shape:
            raise UserError(f"the series are {sizes(shape[1:])} and those of the data {self}; give others.")

    def from_array(self, array: np.ndarray) -> Tensor:
        self.check_array(array.shape, array.dtype)
        with np.errstate(over="ignore"):
            series = torch.from_numpy(array.astype(np.float32))
        if not series.isfinite().all():
            raise UserError("the series hold NaN or infinity; leave those out.")
        return series

    def spec(self) -> dict[str, Any]:
        return {
            "_target_": "oboro.modality.Series",
            "length": self.shape[1],
            "mean": list(self.mean),
            "std": list(self.std),
            "names": list(self.names),
        }


def plots(series: Tensor, columns: int, names: Sequence[str]) -> PIL.Image.Image:
    """Series (N, C, L) as line plots in rows of ``columns``, all on one scale, which is written at the left.

    A line ends where a number is not finite.
    """
    values = series.double().numpy()
    count, channels, length = values.shape
    rows, columns = ceil(count / columns), min(columns, count)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    high = high if high > low else low + 1
    figure = Figure(figsize=(CELL[0] * columns + 0.7, CELL[1] * rows + 0.6), dpi=100, layout="tight")
    axes = figure.add_subplot()
    axes.set(xlim=(0, columns), ylim=(-rows, 0), frame_on=False)
    x = GAP / 2 + np.linspace(0, 1 - GAP, length)
    y = GAP + (1 - 2 * GAP) * (values - low) / (high - low)
    place = np.stack(np.divmod(np.arange(count), columns), 1)  # row and column of each
    for channel in range(channels):
        lines = [np.stack([c + x, y[i, channel] - r - 1], 1) for i, (r, c) in enumerate(place)]
        axes.add_collection(LineCollection(lines, colors=f"C{channel % 10}", linewidths=0.9))
    left, right, bottom, top = GAP / 2, 1 - GAP / 2, GAP / 2, 1 - GAP / 2
    frame = np.array([[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]])
    frames = [frame + np.array([c, -r - 1]) for r, c in place]
    axes.add_collection(LineCollection(frames, colors="0.85", linewidths=0.6, zorder=0))
    ticks = [
        (-r - 1 + GAP + (1 - 2 * GAP) * share, value) for r in range(rows) for share, value in ((0, low), (1, high))
    ]
    axes.set_yticks([t for t, _ in ticks], [f"{value:.3g}" for _, value in ticks], fontsize=7)
    axes.set_xticks([x[0], x[-1]], ["0", f"{length - 1}"], fontsize=7)
    axes.tick_params(length=0)
    if 1 < channels <= LEGEND:
        lines = [Line2D([], [], color=f"C{c % 10}") for c in range(channels)]
        axes.legend(lines, names, ncols=channels, fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
