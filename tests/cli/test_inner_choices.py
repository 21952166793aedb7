"""Laws of a typed option of a group within a group: the run has it, and no values that were set for another one."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import runs
from oboro.cli.inner_choices import typed_choices_stand_alone
from oboro.cli.options import CONF


def composed(*words: str):
    with typed_choices_stand_alone(), initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("train", [*words, "output_dir=o"]), resolve=False)


def option(path: str) -> dict:
    """What a file without options of its own sets."""
    return OmegaConf.to_container(OmegaConf.load(CONF / f"{path}.yaml"), resolve=False)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("loss=mean_flow", "loss/time=uniform"),
        ("loss=mean_flow", "loss/time@loss.end_time=uniform"),
        ("loss=continuous_consistency", "loss/time=logit_normal"),
        ("loss=consistency_distillation", "loss/curriculum=easy"),
        ("loss=truncated_consistency", "loss/curriculum=discrete"),
        ("loss=consistency_easy", "loss/penalty=adaptive"),
        ("experiment=ect_fashion", "loss/curriculum=easy"),
        ("experiment=mean_flow_fashion", "loss/penalty=pseudo_huber"),
    ],
)
def test_a_typed_choice_has_its_own_values_alone(outer, inner):
    group, _, name = inner.partition("=")
    key = group.partition("@")[2] or group.replace("/", ".")
    usual = composed(outer)["loss"][key.split(".")[1]]
    there = composed(outer, inner)["loss"][key.split(".")[1]]
    assert there == option(f"{group.partition('@')[0]}/{name}") != usual


def test_what_is_typed_for_a_key_counts_and_the_own_choice_of_an_option_keeps_its_values():
    typed = composed("loss=continuous_consistency", "loss/time=log_normal_wide", "loss.time.std=9")
    assert (typed["loss"]["time"]["mean"], typed["loss"]["time"]["std"]) == (-1.1, 9)
    assert composed("loss=mean_flow", "loss/time=logit_normal") == composed("loss=mean_flow")
    guided = composed("loss=consistency_latent", "guidance@loss.teacher.guidance=cfg_zero_star")["loss"]["teacher"]
    assert guided["guidance"] == option("guidance/cfg_zero_star")
    assert composed("loss=consistency_latent")["loss"]["teacher"]["guidance"]["scale"] == 8
    beside = composed("loss=mean_flow", "loss/time=uniform")["loss"]
    assert beside["end_time"] == composed("loss=mean_flow")["loss"]["end_time"]


def test_the_commands_compose_so(tmp_path):
    run = runs.call("train.py", "loss=mean_flow", "loss/time=uniform", "--cfg", "job", cwd=tmp_path)
    assert "oboro.loss.time.Uniform" in runs.succeeded(run).stdout and "loc: -0.4" in run.stdout
    time = OmegaConf.create(run.stdout).loss.time
    assert set(time) == {"_target_", "low", "high"}
