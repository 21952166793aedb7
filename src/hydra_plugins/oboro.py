"""Hydra's door to ``oboro.sweep``: it builds launchers of the package ``hydra_plugins`` only.

Every Hydra program in an environment with oboro imports this file, so it must stay cheap to import.
"""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from oboro.base.output import LONGEST_NAME
from oboro.sweep import Job, Options, Sweep
from oboro.sweep.run import announce

# What Hydra is told about the sweep, and a job is no sweep.
OF_THE_SWEEP = re.compile(r"[+~]*hydra[./](mode|run|sweep|sweeper|launcher)\b")


@dataclass
class Outcome(JobReturn):
    """What a sweeper gets. A failed job's value is the message, in place of a number: a search counts the trial as
    failed and goes on, where an exception would end it."""

    @property
    def return_value(self) -> Any:
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


class Processes(Launcher):
    """Runs each job as a single run in a process of its own; see ``oboro.sweep.Options`` for the arguments."""

    def __init__(self, parallel: int, gpus_per_job: int, timeout: float | None):
        self.options = Options(parallel, gpus_per_job, timeout)
        self.sweep: Sweep | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader, self.config = hydra_context.config_loader, config
        self.typed = OmegaConf.to_container(config.hydra.overrides, resolve=False)  # interpolations are the jobs'
        typed = OverridesParser.create(config_loader=self.loader).parse_overrides(self.typed["task"])
        self.fixed = {override.get_key_element() for override in typed if not override.is_sweep_override()}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch; jobs get numbers from ``initial_job_idx`` on. Raises ``UserError`` if two share a folder."""
        setup_globals()
        if self.sweep is None:
            self.sweep = Sweep(
                Path(self.config.hydra.sweep.dir), list(sys.argv), os.getcwd(), self.shared(), self.options, []
            )
            announce(self.sweep)
        jobs = [self.job(number, list(o)) for number, o in enumerate(job_overrides, initial_job_idx)]
        self.sweep.add(jobs)
        self.sweep.run(jobs)
        return [outcome(job) for job in jobs]

    def shared(self) -> list[str]:
        """The options and the overrides of Hydra itself that every job gets."""
        typed = get_args_parser().parse_args(sys.argv[1:])
        options = {
            "--config-name": typed.config_name,
            "--config-path": typed.config_path,
            "--config-dir": typed.config_dir,
        }
        given = [f"{option}={value}" for option, value in options.items() if value is not None]
        return given + [o for o in self.typed["hydra"] if not OF_THE_SWEEP.match(o)]

    def job(self, number: int, overrides: list[str]) -> Job:
        """A job with the folder that Hydra composes for it."""
        config = self.loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)  # for ${hydra:...}
        try:
            path = short(str(config.hydra.sweep.subdir))
        finally:
            HydraConfig.instance().cfg = before
        varied = [o for o in overrides if o.partition("=")[0] not in self.fixed]
        return Job(number, overrides, varied, path)


def short(path: str) -> str:
    """``path`` with names that a file system takes: of one over 255 bytes the first of them and a digest of all."""
    names = [os.fsencode(name) for name in path.split(os.sep)]
    cut = [
        os.fsencode(name[:240].decode(errors="ignore")) + b"-" + sha256(name).hexdigest()[:12].encode()
        if len(name) > LONGEST_NAME
        else name
        for name in names
    ]
    return os.sep.join(map(os.fsdecode, cut))


def outcome(job: Job) -> Outcome:
    result = Outcome(overrides=job.overrides, working_dir=os.getcwd())
    result.status = JobStatus.COMPLETED if job.done else JobStatus.FAILED
    if job.done and job.score is not None:
        result.return_value = job.score
    else:
        result.return_value = f"job {job.number} {job.outcome}" + ", without a finite objective" * job.done
    return result
