"""oboro evaluate, python evaluate.py"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import Fabric
from omegaconf import DictConfig

from oboro.base import distributed
from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.json_text import json_text
from oboro.base.progress_bar import progress_bar
from oboro.base.settings import settings_text
from oboro.cli.checkpoint import latest_checkpoint
from oboro.cli.composed_values import plain
from oboro.cli.evaluation_pictures import save_closest_pairs, save_compared
from oboro.cli.measured import measurement_of
from oboro.cli.sample import average, check_amounts, open_task, start, trained_precision
from oboro.cli.settings import Evaluating, check_settings
from oboro.cli.settle import remark_unread_data, settle
from oboro.cli.unread import refuse_unread
from oboro.cli.watch import watch
from oboro.data import DataModule
from oboro.evaluate.data_check import check_data, difference
from oboro.evaluate.evaluator import Evaluator, held_out_likelihood
from oboro.evaluate.few_steps import tuned_times
from oboro.evaluate.held_out import HeldOut
from oboro.evaluate.protocol import Protocol
from oboro.evaluate.result import Result
from oboro.evaluate.sample_files import read_samples, read_truth
from oboro.lesson import lesson_of
from oboro.metrics import Value
from oboro.report.pictures import rows_picture
from oboro.report.table import interval, number, print_results, spread, write_result
from oboro.sampler.grid import Times
from oboro.task import Generation
from oboro.task.measurements import check_measured
from oboro.task.training_cost import training_evaluations

# What measuring of samples that exist reads of the configuration.
READ_WITH_IMAGES = (
    *("images", "truth", "checkpoint", "data", "extractor", "metrics", "reference", "seed", "devices", "accelerator"),
    *("trust", "traceback", "overwrite", "output_dir", "hydra"),
)


def evaluate(config: DictConfig) -> None:
    """Measure samples of a checkpoint; ``evaluation.json``, ``result.json`` and pictures go to ``output_dir``.

    ``watch=RUN`` measures every checkpoint of a run that trains instead, and adds to the run's own metrics.
    """
    check(config)
    evaluator = build_evaluator(config)
    if config.images:
        evaluate_images(config, evaluator)
        return
    path = latest_checkpoint(Path(config.watch).expanduser(), config.idle) if config.watch else config.checkpoint
    fabric = start(config, config.devices, trained_precision(path))
    checkpoint, task = open_task(config, path, fabric)
    read_data(evaluator.data)
    check_data(task, evaluator.data)
    if evaluator.problem is not None:
        check_measured(task, task.codec, evaluator.problem.check())
    check_likelihood(config, task, evaluator.data)
    check_amounts(config.n, config.chunk, evaluator.data.modality)
    if fabric.is_global_zero and (sentence := difference(task, evaluator.data)):
        print(f"note: {sentence}")
    make_ready(evaluator, evaluator.known(task), config.n)
    if config.watch:
        watch(config, evaluator, fabric, measure)
        return
    if config.tune_times:
        tune_times(config, task, fabric)
    results = measure(config, evaluator, task, fabric)
    likelihood = measure_likelihood(config, evaluator, task)
    if fabric.is_global_zero:
        write(config, checkpoint, task, evaluator, results, likelihood, fabric)


def check_likelihood(config: DictConfig, task: Generation, data: DataModule) -> None:
    """Raises ``UserError`` where bits per dimension are wanted that cannot be had."""
    modality, n = data.modality, config.bits_per_dim.n
    if n > len(data.validation):
        raise UserError(f"bits_per_dim.n={n} of {len(data.validation)} held-out {modality.noun}; set it to fewer.")
    if n and modality.dtype != torch.uint8:
        raise UserError(
            f"bits per dimension are a measure for numbers of 8 bits and {modality.noun} have {modality.quantisation}; "
            "set bits_per_dim.n=0."
        )
    if n and (limit := lesson_of(task.loss).limit):
        raise UserError(
            f"bits per dimension need means at all noise levels, and the model {limit}; set bits_per_dim.n=0."
        )
    if n and getattr(task.loss, "region", "all") == "hole":
        raise UserError("bits per dimension are not known to a model of holes alone; set bits_per_dim.n=0.")
    if n and task.codec.latent_shape(modality.shape) != modality.shape:
        raise UserError("bits per dimension of pixels are not known to a model of latents; set bits_per_dim.n=0.")


def write(
    config: DictConfig,
    checkpoint: dict[str, Any],
    task: Generation,
    evaluator: Evaluator,
    results: list[Result],
    likelihood: dict[str, Value],
    fabric: Fabric,
) -> None:
    """Files and the printed table of a finished measurement."""
    folder = Path(config.output_dir)
    first = results[0]
    result = {
        **first.plain(),
        "checkpoint": str(Path(config.checkpoint).expanduser().resolve()),
        "step": checkpoint["global_step"],
        "training_evaluations": training_evaluations(checkpoint),
        "adapter_file": config.adapter_file,
        "adapter_scale": config.adapter_scale,
        "likelihood": {name: value.plain() for name, value in likelihood.items()},
    }
    if len(results) > 1:
        result |= repeated(results)
    (folder / "evaluation.json").write_text(json_text(result, indent=2) + "\n")
    write_result(folder, result["values"])
    evaluator.data.modality.picture(first.samples, len(first.samples)).save(folder / "samples.png")
    save_compared(folder, evaluator, task, first.samples)
    print_results(results, f"{config.checkpoint}, step {result['step']:,}")
    for name, value in likelihood.items():
        print(f"{name}: {number(value.value)}, 95 % interval {interval(value)}; {settings_text(value.settings)}")
    protocol = protocol_of(config, 0)
    save_closest_pairs(
        folder, evaluator.data, lambda ids: evaluator.redraw(task, ids, protocol, fabric.autocast).cpu(), first
    )
    print(f"written to {folder / 'evaluation.json'}")


def check(config: DictConfig) -> None:
    """Raises ``UserError`` where nothing is named to be measured, for values of another type, and for keys that are
    not read."""
    if not (config.images or config.watch) and config.get("checkpoint") is None:
        raise UserError(
            "nothing is named to be measured; set checkpoint=<a .ckpt file>, images=<a folder> for samples that exist, "
            "or watch=<the folder of a run>."
        )
    if config.truth and not config.images:
        raise UserError("truth=... belongs to images=...; leave it out: samples have what they were drawn after.")
    if config.images:
        refuse_unread(f"images={config.images}, whose samples are all measured as they are", READ_WITH_IMAGES)
    elif config.watch:
        refuse_unread("watch=...", set(config) - {"checkpoint", "bits_per_dim", "tune_times"} | {"hydra"})
    else:
        refuse_unread("checkpoint=...", set(config) - {"idle"} | {"hydra"})
    check_settings(config, Evaluating, resolve=False)
    if config.watch:
        settle(config, "watch", latest_checkpoint(Path(config.watch).expanduser(), config.idle))
    else:
        settle(config, "checkpoint", None if config.images else config.checkpoint)
    check_settings(config, Evaluating)
    if config.watch and (config.devices != 1 or config.repeats != 1):
        raise UserError("watch=... works on one device with one range of samples; leave devices and repeats at 1.")
    if not config.images and config.n % config.draws:
        raise UserError(f"draws={config.draws} of each condition do not make n={config.n}; set n to a multiple of it.")
    if not config.data or not config.extractor:
        raise UserError("what images are compared with is not known; name data=... (and extractor=..., metrics=[...]).")
    if not config.metrics:
        raise UserError("no metric is chosen; name some, metrics=[frechet,precision_recall] for example.")


def build_evaluator(config: DictConfig) -> Evaluator:
    """Extractor, metrics and data that ``config`` names; nothing is read yet."""
    extractor, metrics, data = (
        instantiate(plain(config[key]), _convert_="all") for key in ("extractor", "metrics", "data")
    )
    remark_unread_data(data)
    problem = problem_of(config, data)
    return Evaluator(
        extractor,
        metrics,
        data,
        config.reference,
        problem=problem,
        conditions=config.conditions,
        draws=config.draws,
        baselines=list(config.baselines),
    )


def problem_of(config: DictConfig, data: DataModule) -> HeldOut | None:
    """The inverse problem that samples solve, if there is one."""
    if config.get("measurement") is None:
        if config.measurement_noise:
            raise UserError("measurement_noise is of a measurement; name it with measurement=... too.")
        return None
    return HeldOut(data, measurement_of(config), config.measurement_noise, config.seed)


def make_ready(evaluator: Evaluator, known: set[str], n: int) -> None:
    """The weights of the extractor are fetched, by rank 0 first, and all is checked against what is asked."""
    evaluator.check(known, n)
    evaluator.prepare()


def read_data(data: DataModule) -> None:
    """Fetched and decoded by rank 0 first."""
    with distributed.together():
        if distributed.rank() == 0:
            data.prepare_data()
    data.setup()


def evaluate_images(config: DictConfig, evaluator: Evaluator) -> None:
    """Measure samples that exist already."""
    fabric = start(config, config.devices, "32-true")
    data = evaluator.data
    read_data(data)
    by_features = {k: metric for k, metric in evaluator.metrics.items() if k not in evaluator.paired.metrics}
    for name, metric in by_features.items():
        if metric.captioned:
            raise UserError(f"{name} needs the text of every sample, which images=... has not; leave {name} out.")
    labelled = [name for name, metric in by_features.items() if metric.labelled]
    found = read_samples(str(config.images), data.modality, data.num_classes, labelled)
    for name, metric in by_features.items():
        if len(found.samples) < metric.least:
            raise UserError(
                f"{name} is undefined below {metric.least} samples and images={config.images} holds "
                f"{len(found.samples)}; measure more, or leave {name} out of metrics=[...]."
            )
    images, path = found.samples, Path(str(config.images)).expanduser().absolute()
    truth = None if config.truth is None else read_truth(str(config.truth), str(config.images), data.modality)
    if fabric.is_global_zero:
        print(f"{counted(len(images), data.modality.noun)} of {path}; labels: {found.labels_from}")
        if found.passed_over:
            other = counted(len(found.passed_over), "other files")
            print(f"note: {other} passed over: {shortened(found.passed_over)}")
    known = set() if found.labels is None else {"label"}
    make_ready(evaluator, known if truth is None else known | {"truth"}, len(images))
    origin = {"images": str(path), "images_fingerprint": found.fingerprint, "images_labels": found.labels_from}
    if truth is not None:
        origin |= {"truth": str(Path(str(config.truth)).expanduser().absolute())}
        origin |= {"truth_fingerprint": truth.fingerprint}
    with progress_bar("looking", len(images), fabric.is_global_zero) as done:
        pictures = None if truth is None else truth.samples
        result = evaluator.evaluate_images(images, found.labels, origin, fabric.device, done, pictures)
    if fabric.is_global_zero:
        folder = Path(config.output_dir)
        (folder / "evaluation.json").write_text(json_text(result.plain(), indent=2) + "\n")
        write_result(folder, result.numbers)
        print_results([result], str(path))
        if pictures is not None:
            shown = len(result.samples)
            rows_picture(data.modality, result.samples, pictures[:shown]).save(folder / "compared.png")
        save_closest_pairs(folder, data, lambda ids: images[ids], result)
        print(f"written to {folder / 'evaluation.json'}")


def shortened(names: Sequence[str], most: int = 5) -> str:
    """``a.txt, b.txt and 7 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def protocol_of(config: DictConfig, repeat: int) -> Protocol:
    """The ``repeat``-th range of n samples."""
    chunk = min(config.chunk, config.n)
    return Protocol(
        n=config.n, seed=config.seed, chunk=chunk, ema=average(config), ema_std=config.ema_std, first=repeat * config.n
    )


def measure(config: DictConfig, evaluator: Evaluator, task: Generation, fabric: Fabric) -> list[Result]:
    """One evaluation for each of ``repeats`` disjoint ranges of samples."""
    with progress_bar("looking", config.n * config.repeats, fabric.is_global_zero) as done:
        return [
            evaluator.evaluate(
                task,
                protocol_of(config, k),
                precision=str(fabric._precision.precision),
                autocast=fabric.autocast,
                done=lambda n, k=k: done(k * config.n + n),
            )
            for k in range(config.repeats)
        ]


def tune_times(config: DictConfig, task: Generation, fabric: Fabric) -> None:
    """Give the sampler of ``task`` the times, as many as it has steps, that score best by the first metric, of samples
    of another seed than those that are measured afterwards.

    Raises ``UserError`` for a sampler that chooses its steps, and a metric without a better and a worse.
    """
    sampler, schedule = task.sampler, task.denoiser.schedule
    if not sampler.walks_grid:
        raise UserError(
            f"{type(sampler).__name__} chooses its own times; leave tune_times out, or choose sampler=ddim_consistency."
        )
    if task.lesson.steps is not None or task.lesson.times is not None:
        raise UserError(f"tune_times looks for other times and the model {task.lesson.limit}; leave tune_times out.")
    one = config.copy()
    first = next(iter(config.metrics))
    one.metrics = {first: config.metrics[first]}
    evaluator = build_evaluator(one)
    read_data(evaluator.data)
    make_ready(evaluator, evaluator.known(task), config.n)
    protocol = replace(protocol_of(config, 0), seed=(config.seed + 1) % 2**32)
    name = ""

    def score(times: list[float]) -> float:
        nonlocal name
        sampler.grid = Times(times)
        precision = str(fabric._precision.precision)
        result = evaluator.evaluate(task, protocol, precision=precision, autocast=fabric.autocast)
        name, value = next(iter(result.values.items()))
        if not value.better:
            raise UserError(f"{name} has no better and no worse; name metrics=[frechet] first.")
        return -value.better * value.value

    start = [node.t for node in sampler.nodes(schedule)]
    times, best, before = tuned_times(start, schedule, score, config.tune_times)
    sampler.grid = Times(times)
    if fabric.is_global_zero:
        print(f"times: sampler/grid=times sampler.grid.times=[{','.join(f'{t:.6g}' for t in times)}]")
        print(
            f"{name} {abs(best):.4g} with these and {abs(before):.4g} with the times before, of samples of the seed "
            f"{protocol.seed}, by which they were chosen; of others:"
        )


def measure_likelihood(config: DictConfig, evaluator: Evaluator, task: Generation) -> dict[str, Value]:
    """Bits per dimension of held-out images, if ``bits_per_dim.n`` asks for any."""
    wanted = config.bits_per_dim
    if not wanted.n:
        return {}
    return held_out_likelihood(
        task, evaluator.data, protocol_of(config, 0), n=wanted.n, steps=wanted.steps, probes=wanted.probes
    )


def repeated(results: list[Result]) -> dict[str, Any]:
    """Mean values, and mean, standard deviation, minimum, maximum and the values of all ranges by name."""
    all_values = {name: [e.numbers[name] for e in results] for name in results[0].numbers}
    summary = {
        name: {**dict(zip(("mean", "std", "min", "max"), spread(each), strict=True)), "values": each}
        for name, each in all_values.items()
    }
    return {"values": {name: row["mean"] for name, row in summary.items()}, "repeats": summary}
