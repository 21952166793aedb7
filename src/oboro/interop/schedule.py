"""diffusers' schedulers ↔ our schedules and parameterizations: tables of betas, and what the network predicts."""

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from oboro.base.errors import UserError
from oboro.interop.weights import require
from oboro.schedule import Schedule

# beta_schedule ↦ our class, and the keys of the configuration that it reads.
TABLES = {
    "linear": ("oboro.schedule.DDPM", ("beta_start", "beta_end")),
    "scaled_linear": ("oboro.schedule.ScaledLinear", ("beta_start", "beta_end")),
    "squaredcos_cap_v2": ("oboro.schedule.DiscreteCosine", ()),
}
DEFAULTS = {"beta_start": 1e-4, "beta_end": 0.02}  # where an old file leaves them out
PREDICTIONS = {
    "epsilon": "oboro.parameterization.Eps",
    "v_prediction": "oboro.parameterization.V",
    "sample": "oboro.parameterization.X0",
}


def our_schedule(config: Mapping[str, Any], where: Path | str) -> dict[str, Any]:
    """The configuration of our schedule. Raises ``UserError`` for a table that is none of ``TABLES``."""
    require(config, {"trained_betas": None, "rescale_betas_zero_snr": False}, where)
    kind = config.get("beta_schedule", "linear")
    if kind not in list(TABLES):  # a file may hold anything
        raise UserError(f"{where} has beta_schedule={kind}; only {', '.join(TABLES)} can be had, choose another model.")
    target, keys = TABLES[kind]
    values = {key: config.get(key, DEFAULTS[key]) for key in keys}
    return {"_target_": target, **values, "steps": config.get("num_train_timesteps", 1000)}


def our_parameterization(config: Mapping[str, Any], where: Path | str) -> dict[str, Any]:
    kind = config.get("prediction_type", "epsilon")
    if kind not in list(PREDICTIONS):
        raise UserError(
            f"{where} has prediction_type={kind}; only {', '.join(PREDICTIONS)} can be had, choose another model."
        )
    return {"_target_": PREDICTIONS[kind], "sigma_data": 1.0}


def our_sampler(config: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """DDIM on the times at which diffusers would look: leading ones, with ``steps_offset``. Of an ``LCMScheduler`` four
    jumps with fresh noise."""
    if config.get("_class_name") == "LCMScheduler":
        trailing = {"_target_": "oboro.sampler.grid.Trailing", "count": config.get("num_train_timesteps", 1000)}
        return {"_target_": "oboro.sampler.DDIM", "steps": 4, "eta": inf, "grid": trailing}
    grid = {"_target_": "oboro.sampler.grid.Leading", "count": config.get("num_train_timesteps", 1000)}
    grid["offset"] = config.get("steps_offset", 0)
    return {"_target_": "oboro.sampler.DDIM", "steps": steps, "eta": 0.0, "grid": grid}


def their_scheduler(
    schedule: Mapping[str, Any], parameterization: Mapping[str, Any], offset: int, jumps: bool = False
) -> dict[str, Any]:
    """The configuration of a ``DDIMScheduler``, or for a model that ``jumps`` of an ``LCMScheduler``, whose boundary
    (c_skip = 0.25 / ((10 i)² + 0.25) at index i, c_out near 1) is felt in the last few indices alone. Raises
    ``UserError`` for what diffusers has no table for.

    Clipping is off, and the last step ends in x̂0 (``set_alpha_to_one``), as in our samplers.
    """
    kinds = {target: kind for kind, (target, _) in TABLES.items()}
    predictions = {target: kind for kind, target in PREDICTIONS.items()}
    if schedule["_target_"] not in kinds:
        raise UserError(
            f"{name(schedule)} is no table of betas, and diffusers' pipelines need one; train with schedule=ddpm, "
            "scaled_linear or discrete_cosine."
        )
    if parameterization["_target_"] not in predictions or parameterization.get("sigma_data", 1.0) != 1.0:
        raise UserError(
            f"diffusers' pipelines know no {name(parameterization)} of these settings; train with "
            "parameterization=eps, v or x0, each with sigma_data=1."
        )
    made: Schedule = instantiate(schedule)
    betas = {key: getattr(made, key) for key in TABLES[kinds[schedule["_target_"]]][1]}
    if schedule.get("s", 0.008) != 0.008:
        raise UserError("diffusers' cosine table has s=0.008 alone; train with schedule.s=0.008.")
    own = {"_class_name": "DDIMScheduler", "steps_offset": offset, "timestep_spacing": "leading"}
    if jumps:
        own = {"_class_name": "LCMScheduler", "original_inference_steps": 50, "timestep_scaling": 10.0}
    return {
        **own,
        "beta_schedule": kinds[schedule["_target_"]],
        **betas,
        "num_train_timesteps": made.steps,
        "prediction_type": predictions[parameterization["_target_"]],
        "clip_sample": False,
        "set_alpha_to_one": True,
        "thresholding": False,
    }


def name(config: Mapping[str, Any]) -> str:
    return config["_target_"].rpartition(".")[2]
