"""Pictures that are measured, or measurements of pictures, for samples to be drawn after."""

from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image as Pillow
from torch import Tensor

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.remark import remark
from oboro.cli.composed_values import plain
from oboro.cli.files import listed, remark_left_out
from oboro.measurement import MaskShape, Measured, Measurement, measure
from oboro.modality import Image
from oboro.modality.decode_image import load_image
from oboro.modality.image import KINDS
from oboro.task import Generation
from oboro.task.measurements import check_measured

WIDEST = 12  # tiles in a row of the grid


@dataclass(frozen=True)
class Pictures:
    """What ``measured=...`` names: k measurements, what they show (k, C, H, W) and, where the pictures were given as
    they are, these, both as stored. Sample i is of picture i mod k."""

    measured: Measured
    shown: Tensor
    truth: Tensor | None

    def __len__(self) -> int:
        return len(self.measured)

    def rows(self, ids: list[int]) -> Measured:
        """The measurements of samples ``ids``."""
        return self.measured.rows([i % len(self) for i in ids])

    def write(self, folder: Path) -> None:
        """The pictures, ``truth``, and what was measured of them, ``measured``, where it is a picture."""
        of = {} if self.truth is None else {"truth": self.truth}
        y = self.measured.y
        if y.ndim == 4 and y.shape[1] in KINDS:
            of["measured"] = Image(*y.shape[1:]).to_stored(y)
        for name, pictures in of.items():
            (folder / name).mkdir(exist_ok=True)
            for k, picture in enumerate(pictures):
                Image(*picture.shape).write(picture, folder / name / f"{k:06d}")

    def grid(self, samples: Tensor, kind: Image) -> Pillow.Image:
        """For each picture itself, where it is known, what was measured, and its samples, beside each other."""
        own = [samples[k :: len(self)] for k in range(len(self))]
        blank = torch.full_like(samples[:1], 255)
        before = [self.shown] if self.truth is None else [self.truth, self.shown]
        tiles = [
            torch.cat([*(p[k : k + 1] for p in before), drawn, *[blank] * (len(own[0]) - len(drawn))])
            for k, drawn in enumerate(own)
        ]
        width = len(tiles[0])
        return kind.picture(torch.cat(tiles), width * max(1, WIDEST // width))


def read_measured(config: DictConfig, task: Generation) -> Pictures | None:
    """The pictures that ``config`` names, or None. Raises ``UserError`` for those that cannot be measured so."""
    chosen = config.get("measurement")
    if chosen is None and config.measured is None:
        if config.measurement_noise or config.degraded:
            raise UserError("measurement_noise and degraded are of a measurement; name it with measurement=... too.")
        return None
    if chosen is None or config.measured is None:
        lacking = "measurement=mask_box" if chosen is None else "measured=PICTURE"
        raise UserError(f"a measurement is what is measured and the pictures of which it is; set {lacking} as well.")
    kind = task.modality
    if not isinstance(kind, Image):
        raise UserError(f"measurements are of images and the model makes {kind.noun}; leave measurement out.")
    measurement = measurement_of(config)
    pictures = degraded(config, measurement, kind) if config.degraded else clean(config, measurement, kind)
    check_measured(task, task.codec, pictures.measured)
    return pictures


def measurement_of(config: DictConfig) -> Measurement | MaskShape:
    return instantiate(plain(config.measurement), _convert_="all")


def clean(config: DictConfig, measurement: Measurement | MaskShape, kind: Image) -> Pictures:
    """Pictures as they are, cropped as in training, which are measured with noise."""
    channels, *size = kind.shape
    read, files = Image(channels, *measurement.picture_size(*size)), files_of(config, kind)
    truth = torch.stack([read.read_fitted(file) for file in files])
    height, width = read.shape[1:]
    if others := [file.name for file in files if load_image(file).size != (width, height)]:
        remark(f"{others[0]} and {counted(len(others), 'pictures')} in all are scaled and cropped to {height}×{width}.")
    x = measurement.placed(read.to_model(truth), *size)
    made = measure(x, measurement, range(len(files)), noise=config.measurement_noise, seed=config.seed)
    return Pictures(made, shown(made, kind), kind.to_stored(x))


def degraded(config: DictConfig, measurement: Measurement | MaskShape, kind: Image) -> Pictures:
    """Pictures that are measurements already."""
    channels, *size = kind.shape
    files = files_of(config, kind)
    operator = measure(torch.zeros(len(files), *kind.shape), measurement, range(len(files)), seed=config.seed).operator
    read = Image(channels, *measurement.picture_size(*size))
    if not isinstance(measurement, MaskShape):
        shape = operator(torch.zeros(1, *kind.shape)).shape[1:]
        if len(shape) != 3 or shape[0] not in KINDS:
            raise UserError(f"{type(operator).__name__} gives no pictures; leave degraded out.")
        read = Image(*shape)
    y = read.to_model(torch.stack([read.read(file) for file in files]))
    if isinstance(measurement, MaskShape):
        y = operator(measurement.placed(y, *size))
    made = Measured(y, torch.full((len(files),), float(config.measurement_noise)), operator)
    return Pictures(made, shown(made, kind), None)


def shown(made: Measured, kind: Image) -> Tensor:
    return kind.to_stored(made.operator.picture(made.y))


def files_of(config: DictConfig, kind: Image) -> list[Path]:
    """The picture, or those of the folder by name, as many as there are samples."""
    files = listed("measured", config.measured, kind.suffixes)
    remark_left_out("measured", files, config.n)
    return files[: config.n]
