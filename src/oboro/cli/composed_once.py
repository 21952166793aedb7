"""One composition for a single run. Hydra makes two: one to read ``hydra.mode`` of it, and the same again to run."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hydra._internal.hydra as internal
from hydra.types import RunMode
from omegaconf import DictConfig

from oboro.cli.arguments import MULTIRUN

RUNS = f"hydra.mode={RunMode.RUN.name}"  # what Hydra appends to the words of a run whose mode nothing says


@contextmanager
def composed_once() -> Iterator[None]:
    """Within it ``hydra.main`` composes once, unless the command line asks for a sweep, or options do."""
    usual = internal.Hydra
    internal.Hydra = Once
    try:
        yield
    finally:
        internal.Hydra = usual


class Once(internal.Hydra):
    """Keeps what it composed to learn the mode until that is asked for."""

    _kept: tuple[Any, list[str], DictConfig] | None = None

    def get_mode(self, config_name: str | None, overrides: list[str]) -> Any:
        if any(word in MULTIRUN for word in sys.argv[1:]):
            return super().get_mode(config_name, overrides)
        try:
            config = super().compose_config(config_name, overrides, run_mode=RunMode.RUN)
        except Exception:  # also of what only a sweep may say
            return super().get_mode(config_name, overrides)
        if config.hydra.mode is None:
            config.hydra.mode = RunMode.RUN
            config.hydra.overrides.hydra.append(RUNS)
            self._kept = config_name, [*overrides, RUNS], config
            return None
        if config.hydra.mode == RunMode.RUN:
            self._kept = config_name, list(overrides), config
        return config.hydra.mode

    def compose_config(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        with_log_configuration: bool = False,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        kept, self._kept = self._kept, None
        if kept is None or run_mode != RunMode.RUN or kept[:2] != (config_name, list(overrides)):
            return super().compose_config(
                config_name, overrides, run_mode, with_log_configuration, from_shell, validate_sweep_overrides
            )
        config = kept[2]
        if with_log_configuration:
            internal.configure_log(config.hydra.hydra_logging, config.hydra.verbose)
            internal.log = logging.getLogger(internal.__name__)
            self._print_debug_info(config_name, overrides, run_mode)
        return config
