"""What a configuration leaves to the data: ``auto``."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from oboro.base.errors import UserError
from oboro.base.remark import notice
from oboro.data import DataModule
from oboro.data.shapes import AUTO
from oboro.restore.checkpoint import load_checkpoint

BY_DATA = "label_if_any"  # the conditioner that is none where there are no classes


def settle(config: DictConfig, key: str, model: str | Path | None) -> None:
    """Put numbers where ``data`` has ``auto``, before anything interpolates them, and choose a conditioner that
    depends on them. A checkpoint holds the numbers. Channels and resolution are those of the checkpoint
    ``model``, which ``key`` names.

    Raises what listing the data raises, and ``UserError`` for a value of the conditioner that is then none.
    """
    if "data" not in config or "_target_" not in config.data:
        return
    if model is not None:
        settle_for(config, load_checkpoint(model).get("modality", {}), key)
    if missing := sorted(key for key in OmegaConf.missing_keys(config) if key.startswith("data.")):
        raise UserError(f"{missing[0]} has no value; set {missing[0]}=...")
    if AUTO in OmegaConf.to_container(config.data, resolve=True).values():
        data: DataModule = instantiate(config.data, _convert_="all")
        settled = data.settled()
        for name, value in settled.items():
            config.data[name] = value
        found = ", ".join(f"data.{name}={value}" for name, value in settled.items())
        seen = data.findings()
        verb = "have" if set(settled) == {"num_classes"} else "are"
        notice(f"the data {verb} {'; '.join(seen)}: {found}")
    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    chosen = [name for group, name in hydra.runtime.choices.items() if group.split("@")[0] == "conditioner"]
    if BY_DATA in chosen and not config.data.num_classes:
        if typed := [o for o in hydra.overrides.task if o.lstrip("+").startswith("conditioner.")]:
            raise UserError(f"{typed[0]} is for labels and the data have no classes; leave it out")
        config.conditioner = {"_target_": "oboro.conditioner.Unconditional"}


def settle_for(config: DictConfig, made_for: dict[str, Any], key: str) -> None:
    """Channels and resolution, where they are ``auto``, of the pictures that the model in ``key=PATH`` is
    ``made_for``."""
    if "height" not in made_for:
        return
    height, width = made_for["height"], made_for["width"]
    values = {"channels": made_for["channels"], "resolution": height if height == width else [height, width]}
    settled = {name: value for name, value in values.items() if config.data.get(name) == AUTO}
    for name, value in settled.items():
        config.data[name] = value
    if settled:
        notice(f"of the model in {key}: {', '.join(f'data.{name}={value}' for name, value in settled.items())}")
