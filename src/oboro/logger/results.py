"""Results and pictures, to every logger in the form that it takes."""

from collections.abc import Sequence

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy import ndarray

from oboro.evaluate.result import Result, protocol_line
from oboro.logger.guarded import attempt
from oboro.logger.jsonl import JSONL


@rank_zero_only
def log_result(loggers: Sequence[Logger], result: Result, step: int) -> None:
    """Values and protocol: a line of ``metrics.jsonl`` with both, TensorBoard's scalars and text, scalars elsewhere."""
    real = {f"real/{name}": value.real for name, value in result.values.items() if value.real is not None}
    for logger in loggers:
        if isinstance(logger, JSONL):
            plain = result.plain()
            known = {key: plain[key] for key in ("metrics", "protocol")}
            logger.write(step, {**result.numbers, **known, "evaluation_seconds": plain["seconds"]})
            continue
        logger.log_metrics({**result.numbers, **real}, step)
        if isinstance(logger, TensorBoardLogger):
            attempt(logger, lambda board: board.experiment.add_text("protocol", protocol_line(result.protocol), step))


@rank_zero_only
def log_picture(loggers: Sequence[Logger], name: str, pixels: ndarray, step: int) -> None:
    """``pixels`` (H, W, 3), uint8, to TensorBoard."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            attempt(logger, lambda board: board.experiment.add_image(name, pixels, step, dataformats="HWC"))
