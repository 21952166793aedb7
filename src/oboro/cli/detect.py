"""oboro detect, python detect.py"""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import Fabric
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from oboro.anomalies import Anomalies, TestSet
from oboro.base.amounts import check_fits_memory
from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.progress_bar import progress_bar
from oboro.base.settings import settings as settings_of
from oboro.base.spread import spread
from oboro.cli.composed_values import plain
from oboro.cli.detector_file import FIXED, read_detector, write_detector
from oboro.cli.evaluate import read_data
from oboro.cli.sample import average, open_task, start, trained_precision
from oboro.cli.settings import Detecting, check_settings
from oboro.cli.settle import remark_unread_data, settle
from oboro.cli.sorting import sort_pictures
from oboro.cli.unread import refuse_unread
from oboro.data import DataModule
from oboro.data.latents import module_digest
from oboro.detection import Calibration, Pooling
from oboro.detector import Cost, Detector, Inspection
from oboro.evaluate.data_check import check_modality
from oboro.evaluate.detection import detection_report
from oboro.modality import Modality
from oboro.report.detection import print_report, write_report
from oboro.restore.checkpoint import forget_checkpoint, load_checkpoint
from oboro.restore.modality import modality_of
from oboro.restore.rebuild import build_task
from oboro.task import Generation, Task

# What a run with a calibrated detector may still be given.
WITH_CALIBRATED = {"calibrated", "images", "anomalies", "follow", "resamples", "chunk", "accelerator"}
WITH_CALIBRATED |= {"trust", "traceback", "overwrite", "output_dir", "hydra"}


def detect(config: DictConfig) -> None:
    """Say what is anomalous among ``images``, or measure how well that is told on the test set ``anomalies``.

    Writes ``detector.yaml``, the detector with its threshold, and of images ``scores.csv``, ``maps`` and ``overlays``;
    of a test set ``detection.json``, ``scores.csv``, ``result.json`` and ``examples.png``.
    """
    state: Mapping[str, Tensor] = {}
    calibration, protocol = None, {}
    if config.calibrated is not None:
        refuse_unread("calibrated=..., which fixes it", WITH_CALIBRATED)
        fixed, calibration, protocol, state = read_detector(config.calibrated)
        take(config, fixed)
    check(config)
    detector: Detector = instantiate(plain(config.detector), _convert_="all")
    check_needs(config, detector)
    precision = "32-true" if config.checkpoint is None else trained_precision(config.checkpoint)
    fabric = start(config, 1, precision)
    task = open_model(config, fabric)
    data = open_data(config, task) if calibration is None or config.get("anomalies") is not None else None
    test_set = None if config.get("anomalies") is None or data is None else open_test_set(config, data)
    modality = modality_for(config, task, data)
    check_conditions(task)
    detector.check(task, modality)
    if calibration is not None and detector.learns:
        detector.load(state)
    detector.to(fabric.device)
    pooling = pooling_of(config) if calibration is None else calibration.pooling
    chunk = 1 if config.follow else config.chunk
    inspection = Inspection(detector, task, modality, pooling, fabric.device, fabric.autocast, config.seed, chunk)
    with task.averaged(average(config)) if task is not None else nullcontext():
        if calibration is None:
            assert data is not None
            calibration, protocol = calibrate(config, inspection, data)
            path = write_detector(
                Path(config.output_dir), config, modality.spec(), calibration, protocol, detector.state()
            )
            print(f"{calibration.share:.4g} of {counted(calibration.count, 'validation normals')} are accepted: {path}")
        elif task is not None and module_digest(task.learned) != protocol.get("model"):
            raise UserError(
                f"{config.checkpoint} has other weights than when {config.calibrated} was made, so its threshold is "
                "not theirs; calibrate anew, with checkpoint=..."
            )
        if config.images is not None:
            sort_pictures(config, inspection, calibration)
        if test_set is not None:
            test(config, inspection, calibration, protocol, *test_set)


def pooling_of(config: DictConfig) -> Pooling:
    return Pooling(config.score, config.top_share, config.smoothing, config.temperature)


def take(config: DictConfig, fixed: Mapping[str, Any]) -> None:
    """Put the settings of a calibrated detector in the place of those that were composed."""
    with open_dict(config):
        for key in (*FIXED, "modality"):
            if key in fixed:
                config[key] = fixed[key]


def check(config: DictConfig) -> None:
    """Raises ``UserError`` where nothing is named to be looked at, and for values of another type."""
    anomalies = config.get("anomalies")
    if config.images is not None and anomalies is not None:
        raise UserError("images are sorted and anomalies measure how well; give one of the two.")
    if config.follow and config.images is None:
        raise UserError("follow waits for further pictures in a folder; set images=<a folder> as well.")
    if not config.detector:
        raise UserError("no detector is chosen; name one, detector=partial_diffusion for example.")
    check_settings(config, Detecting, resolve=False)
    settle(config, "checkpoint", config.checkpoint)
    check_settings(config, Detecting)
    if config.calibrated is None and not config.data:
        raise UserError(
            "what is normal is not known; set checkpoint=<a .ckpt file>, whose training data are, or name data=..."
        )


def check_needs(config: DictConfig, detector: Detector) -> None:
    """Raises ``UserError`` for a checkpoint that is missing, is of no use, or of another task."""
    name = type(detector).__name__
    if detector.needs is None:
        if config.checkpoint is not None:
            raise UserError(
                f"{name} looks at no model; leave checkpoint out and name data=..., or choose another detector."
            )
        return
    if config.checkpoint is None:
        kind = "task=autoencoder" if detector.needs == "reconstruction" else "task=diffusion"
        raise UserError(f"{name} asks a model; set checkpoint=<a .ckpt file that train.py wrote with {kind}>.")
    draws = "denoiser" in load_checkpoint(config.checkpoint)["config"]["task"]
    if detector.needs == "denoiser" and not draws:
        raise UserError(
            f"{name} asks a denoiser and {config.checkpoint} is none; choose detector=autoencoding, or a checkpoint of "
            "task=diffusion."
        )


def open_model(config: DictConfig, fabric: Fabric) -> Task | None:
    """The task of the checkpoint on the device, if there is one."""
    if config.checkpoint is None:
        return None
    checkpoint = load_checkpoint(config.checkpoint)
    if "denoiser" in checkpoint["config"]["task"]:
        return open_task(config, config.checkpoint, fabric, towards_itself=True)[1]
    task = build_task(checkpoint)
    assert isinstance(task, Task)
    if config.profile is not None and config.profile not in task.ema.profiles:
        raise UserError(f"there is no average {config.profile}; choose profile={'|'.join(task.ema.profiles)}.")
    task.to(fabric.device)
    for name, mean in task.averages.items():
        mean.start(task.learners[name].network)
    forget_checkpoint()
    return task


def open_data(config: DictConfig, task: Task | None) -> DataModule:
    data: DataModule = instantiate(plain(config.data), _convert_="all")
    remark_unread_data(data)
    read_data(data)
    if task is not None:
        check_modality(task.modality or data.modality, data.modality)
        check_split(config, task, data)
    return data


# What decides a split, and what it was before there were these keys.
SPLIT = {"validation": 0.05, "test": 0, "left_out": [], "seed": 0}


def check_split(config: DictConfig, task: Task, data: DataModule) -> None:
    """Raises ``UserError`` where the data of the model's training are split in another way than they were then: what it
    has learned from tests nothing, and fixes no threshold."""
    if data.fingerprint != task.fingerprint:
        return
    trained = load_checkpoint(config.checkpoint)["config"]["data"]
    forget_checkpoint()
    here = plain(config.data)
    for key, default in SPLIT.items():
        was, now = (node.get(key, default) for node in (trained, here))
        if was != now:
            raise UserError(
                f"the model was trained with data.{key}={was} and would be tested with {now}, on samples that it has "
                f"learned from; leave data.{key} out, or train with it."
            )


def modality_for(config: DictConfig, task: Task | None, data: DataModule | None) -> Modality:
    if task is not None and task.modality is not None:
        return task.modality
    if data is not None:
        return data.modality
    return modality_of({"modality": OmegaConf.to_container(config.modality)})


def check_conditions(task: Task | None) -> None:
    """Raises ``UserError`` for a model that cannot be asked without what nobody knows of a sample."""
    if not isinstance(task, Generation):
        return
    asked = [single.name for single in task.conditioner.singles if single.name not in task.conditioner.dropped]
    if asked:
        raise UserError(
            f"the model was never trained without {asked[0]}, which nobody knows of the samples; train one with "
            "conditioner=unconditional, or with conditioner.dropout=0.1."
        )


def calibrate(config: DictConfig, inspection: Inspection, data: DataModule) -> tuple[Calibration, dict[str, Any]]:
    """From training normals, where the detector learns, and from validation normals the threshold; neither sees a
    sample of a test. Raises ``UserError`` where nothing is held out."""
    held_out = data.validation
    if len(held_out) < 2:
        raise UserError(
            "the threshold is fixed on normal samples that were not trained on, and data.validation holds out "
            f"{len(held_out)}; set data.validation=0.1 or more, in training, too."
        )
    detector, task, modality = inspection.detector, inspection.task, inspection.modality
    if detector.learns:
        with inspection.autocast():  # as it will look at samples
            detector.fit(task, data.train.samples, modality)
        detector.to(inspection.device)
    rows = torch.tensor(spread(config.normals, len(held_out)))
    check_fits_memory("normals", len(rows), (len(detector.names), *modality.shape[1:]), 4, "maps")
    with progress_bar("calibrating", len(rows)) as done:
        maps = inspection.maps(held_out.samples[rows], 0, done)
    calibration = Calibration.of(maps, inspection.pooling, config.share)
    protocol = {
        "detector": settings_of(detector),
        "normals": {"validation": len(rows), "fingerprint": data.fingerprint, "seed": data.seed},
        "precision": str(config.precision or "as trained"),
        "device": inspection.device.type,
        "seed": config.seed,
        "chunk": inspection.chunk,
    }
    if isinstance(task, Generation):
        parts = {"schedule": task.denoiser.schedule, "sampler": task.sampler, "guidance": task.guidance}
        protocol |= {name: settings_of(part) for name, part in parts.items()}
    if task is not None:
        protocol["model"] = module_digest(task.learned)
    return calibration, protocol


def open_test_set(config: DictConfig, data: DataModule) -> tuple[Anomalies, TestSet]:
    """Before anything is computed: a folder that is not there is known by then."""
    anomalies: Anomalies = instantiate(plain(config.anomalies), _convert_="all")
    samples = anomalies(data)
    if samples.anomalous.all() or not samples.anomalous.any():
        raise UserError(
            f"the test set has {'anomalous' if samples.anomalous.any() else 'normal'} samples alone, by which nothing "
            "can be told apart; add some of the other kind, or choose another anomalies=..."
        )
    return anomalies, samples


def test(
    config: DictConfig,
    inspection: Inspection,
    calibration: Calibration,
    protocol: Mapping[str, Any],
    anomalies: Anomalies,
    samples: TestSet,
) -> None:
    """Measure on ``samples`` of ``anomalies``, at the threshold that is fixed already."""
    inspection.cost = Cost()
    with progress_bar("testing", len(samples)) as done:
        maps = inspection.maps(samples.samples, TESTED, done)
    scores, drawn = calibration.scores(maps), calibration.map(maps)
    known = {**protocol, "anomalies": settings_of(anomalies), "test_set": samples.fingerprint, "samples": len(samples)}
    report = detection_report(
        samples, scores, drawn, calibration.threshold, known, inspection.cost.plain(), config.resamples
    )
    folder = Path(config.output_dir)
    write_report(folder, report, samples, scores, drawn, calibration, inspection.modality)
    print_report(report, str(config.checkpoint or type(inspection.detector).__name__))
    print(f"written to {folder / 'detection.json'}")


TESTED = 1 << 20  # the number of the first test sample, beyond those of validation: noise of its own
