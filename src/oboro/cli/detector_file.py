"""``detector.yaml``, and ``detector.pt`` beside it: a detector that knows what normal samples look like to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.torch_file import load
from oboro.cli.settings import nothing
from oboro.detection.calibration import Calibration
from oboro.extractor.extractor import file_digest
from oboro.restore.foreign import refuse_foreign

VERSION = 1
# What decides the scores of a sample, and so is the file's and nobody else's once the threshold is fixed.
FIXED = ("detector", "distance", "checkpoint", "schedule", "sampler", "guidance", "profile", "ema_std", "seed")
FIXED += (
    "score",
    "top_share",
    "smoothing",
    "temperature",
    "share",
    "normals",
    "data",
    "adapter_file",
    "adapter_scale",
    "controls",
    "precision",
)
BUILT = ("data", "detector", "distance", "schedule", "sampler", "guidance", "modality")


def write_detector(
    folder: Path,
    config: DictConfig,
    modality: Mapping[str, Any],
    calibration: Calibration,
    protocol: Mapping[str, Any],
    state: Mapping[str, Tensor],
) -> Path:
    """The file, with all that ``read_detector`` needs."""
    composed = OmegaConf.to_container(config, resolve=True)
    chosen = {key: composed[key] for key in FIXED if key in composed and not nothing(composed[key])}
    if chosen.get("checkpoint") is not None:
        chosen["checkpoint"] = str(Path(chosen["checkpoint"]).expanduser().resolve())
    content = {
        "version": VERSION,
        "config": {**chosen, "modality": dict(modality)},
        "calibration": calibration.plain(),
        "protocol": dict(protocol),
    }
    path, beside = folder / "detector.yaml", folder / "detector.pt"
    if state:
        torch.save(dict(state), beside)
        content["learned"] = file_digest(beside)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def read_detector(path: str | Path) -> tuple[dict[str, Any], Calibration, dict[str, Any], dict[str, Tensor]]:
    """Settings, calibration, protocol and what was learned. Raises ``UserError`` for what is no such file, or names
    classes that are not trusted."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no calibrated={path}; give the detector.yaml that `oboro detect` wrote.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise UserError(f"{path} is of version {content['version']} and this one reads {VERSION}; calibrate anew.")
        settings, calibration = content["config"], Calibration.restored(content["calibration"])
        protocol = content["protocol"]
    except (yaml.YAMLError, ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} is damaged or no detector.yaml of `oboro detect`; calibrate anew.") from error
    refuse_foreign(settings, [group for group in BUILT if settings.get(group)], path)
    beside = path.with_name("detector.pt")
    if "learned" not in content:
        return settings, calibration, protocol, {}
    if not beside.is_file() or file_digest(beside) != content["learned"]:
        raise UserError(
            f"{beside} is missing, damaged or of another detector than {path}; keep both, or calibrate anew."
        )
    try:
        state = load(beside)
    except Exception as error:  # whatever the unpickler trips over
        raise UserError(f"{beside} is damaged; calibrate anew.") from error
    return settings, calibration, protocol, state
