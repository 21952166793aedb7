"""A single run is composed once, and to what Hydra composes."""

from contextlib import nullcontext

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

import composing
import runs


@pytest.fixture
def compositions(monkeypatch):
    """What is composed, as ``(run mode, overrides)``."""
    made, load = [], ConfigLoaderImpl.load_configuration

    def noted(self, config_name, overrides, run_mode, *rest, **named):
        made.append((run_mode.name, list(overrides)))
        return load(self, config_name, overrides, run_mode, *rest, **named)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", noted)
    return made


@pytest.mark.parametrize("word", ["seed=3", "hydra.mode=RUN", "hydra.verbose=[oboro.nothing]"])
def test_a_run_is_composed_once_to_what_hydra_composes(tmp_path, monkeypatch, compositions, word):
    words = [*runs.toy("experiment=flow_cifar10"), "hydra.run.dir=run"]

    def written() -> dict[str, str]:
        run = runs.call("train.py", *words, word, cwd=tmp_path)
        files = {path.name: path.read_text() for path in (tmp_path / "run" / ".hydra").iterdir()}
        return {**files, "status": str(run.status), "stderr": run.stderr}

    monkeypatch.setattr("oboro.cli.run.refuse_unknown", lambda _: 1 / 0)  # it ends before there is work
    monkeypatch.setattr("oboro.cli.run.without_an_empty_folder", lambda *_: nullcontext())
    once = written()
    assert len(compositions) == 1
    monkeypatch.setattr("oboro.cli.run.composed_once", nullcontext)
    monkeypatch.setattr("oboro.cli.claim.refuse_used", lambda *_: None)
    composing.as_usual()
    try:
        assert written() == once and len(compositions) == 3
    finally:
        composing.once()


def test_what_only_a_sweep_may_say_is_composed_as_a_sweep(tmp_path, compositions):
    runs.call("train.py", "-m", "seed=1,2", "hydra.sweep.dir=sweep", "hydra/launcher=nope", cwd=tmp_path)
    assert {mode for mode, _ in compositions} == {"MULTIRUN"}
    compositions.clear()
    refused = runs.call("train.py", "seed=1,2", cwd=tmp_path)
    assert refused.status == 1 and "add -m" in refused.stderr
