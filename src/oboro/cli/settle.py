"""What a configuration leaves to the data: ``auto``."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.remark import notice, remark
from oboro.cli.offered import OPTION
from oboro.cli.unread import typed_keys
from oboro.data import DataModule
from oboro.data.shapes import AUTO
from oboro.restore.checkpoint import load_checkpoint

LABEL, TEXT, TRAINED = "oboro.conditioner.Label", "oboro.conditioner.Text", "oboro.restore.Trained"
UNCONDITIONAL = {"_target_": "oboro.conditioner.Unconditional"}
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
        settle_encoders(config, load_checkpoint(model)["config"]["task"].get("conditioner", {}))
    if missing := sorted(key for key in OmegaConf.missing_keys(config) if key.startswith("data.")):
        raise UserError(f"{missing[0]} has no value; set {missing[0]}=...")
    if AUTO in OmegaConf.to_container(config.data, resolve=True).values():
        data: DataModule = instantiate(config.data, _convert_="all")
        settled = data.settled()
        for name, value in settled.items():
            config.data[name] = value
        shown = ", ".join(f"data.{name}={value}" for name, value in settled.items())
        notice(f"the data: {'; '.join(data.findings())} ({shown})")
    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    chosen = [name for group, name in hydra.runtime.choices.items() if group.split("@")[0] == "conditioner"]
    if OPTION in chosen and model is not None:
        settle_classes(config, key)
    if BY_DATA in chosen and not config.data.num_classes:
        if typed := [o for o in hydra.overrides.task if o.lstrip("+").startswith("conditioner.")]:
            raise UserError(f"{typed[0]} is for labels and the data have no classes; leave it out")
        config.conditioner = UNCONDITIONAL


def remark_unread_data(data: DataModule) -> None:
    """Say it of a typed ``data.key`` that other settings of ``data`` leave without a meaning."""
    typed = typed_keys(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    for key, why in data.unread().items():
        if f"data.{key}" in typed:
            remark(f"data.{key} is not read, since {why}; leave it out.")


def settle_classes(config: DictConfig, key: str) -> None:
    """Without labels, where those of the data are none or not as many as the classes that the model in ``key=PATH``
    knows: class 3 of one set is not class 3 of another."""
    parts = config.conditioner.get("parts", {})
    name, node = next(
        ((n, part) for n, part in parts.items() if part.get("_target_") == LABEL), ("", config.conditioner)
    )
    known, present = node.get("num_classes"), config.data.get("num_classes")
    if node.get("_target_") != LABEL or known == present or AUTO in (known, present):
        return
    if name and len(parts) > 1:
        with open_dict(parts):
            del parts[name]
    else:
        config.conditioner = UNCONDITIONAL
    have = counted(present, "others") if present else "none"
    remark(
        f"the model in {key} knows {counted(known, 'classes')} and the data have {have}, so it is trained without "
        f"labels{'' if name else ' (conditioner=unconditional)'}"
    )


def settle_encoders(config: DictConfig, stored: dict[str, Any]) -> None:
    """Where the run names another conditioner than the one ``stored`` in a checkpoint, and that one reads texts, its
    encoder in the place of a trained one whose path is not typed: the model knows texts as it reads them."""
    theirs = next((part for part in parts_of(stored) if part.get("_target_") == TEXT), None)
    typed = typed_keys(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    if theirs is None or any("encoder" in key.split(".") for key in typed):
        return
    for part in parts_of(config.get("conditioner", {})):
        if part.get("_target_") == TEXT and part.encoder.get("_target_") == TRAINED:
            for key in ("encoder", "text_dim", "pooled_dim"):
                part[key] = theirs[key]
            notice("texts are read as by the model in init")


def parts_of(conditioner: Any) -> list[Any]:
    """A conditioner's node and those of its parts."""
    return [conditioner, *conditioner.get("parts", {}).values()]


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
