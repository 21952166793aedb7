"""The values of every option are held against the signatures of what they configure."""

from collections.abc import Mapping
from copy import deepcopy
from math import nan
from typing import NotRequired

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from oboro.anomalies import Anomalies
from oboro.base.configuration import TARGET, Configuration, at, key_of, shown
from oboro.base.errors import UserError
from oboro.cli.checkpoint import offer_checkpoint
from oboro.cli.settings import Detecting, Evaluating, Sampling, Training, check_settings, plain
from oboro.data.shapes import AUTO
from oboro.distance import Distance
from oboro.measurement import MaskShape, Measurement
from oboro.restore import Stored
from test_conf import CLASSLESS, CONF, OF_SAMPLES, OPTIONS, SEVERAL, at_once, choosing, composed

CHOSEN = at_once(option for option in OPTIONS if option[0] not in ("debug", "hparams_search"))
NOTHING = {"wrong": {"wrong": []}}  # of no type that a value may have
NO_NUMBER = ["abc", True, nan, [[1]]]
WRONG = {bool: ["maybe", 7, nan], int: NO_NUMBER, float: NO_NUMBER, str: [True, [["a"]]]}


def scalars(node, place=()):
    """The place of every value that is written, not interpolated, in a node and what is in it."""
    if isinstance(node, dict | list) and node:
        for key in node if isinstance(node, dict) else range(len(node)):
            yield from scalars(node[key], (*place, key))
    elif place and place[-1] != TARGET and not (isinstance(node, str) and "${" in node):
        yield place


def chosen(options):
    if options[0][0] in SEVERAL:
        added = "+" * (options[0][0] in OF_SAMPLES)
        return composed(f"{added}{options[0][0]}=[{','.join(name for _, name in options)}]")
    task = ["task=clip"] if options[0][1] in ("contrastive", "siglip") else []
    return composed(*task, *(override for option in options for override in choosing(*option)))


class Everything(Training):
    """A run, with the groups that sampling alone has."""

    anomalies: NotRequired[Anomalies]
    distance: NotRequired[Mapping[str, Distance]]
    measurement: NotRequired[Measurement | MaskShape]


@pytest.mark.slow
@pytest.mark.parametrize("options", CHOSEN.values(), ids=CHOSEN)
def test_every_option_is_right_as_it_is(options):
    config = chosen(options)
    before = OmegaConf.to_container(config, resolve=True)
    check_settings(config, Everything, resolve=AUTO not in before["data"].values())
    assert OmegaConf.to_container(config, resolve=True) == before


@pytest.mark.slow
@pytest.mark.parametrize("options", CHOSEN.values(), ids=CHOSEN)
def test_no_value_of_an_option_escapes(options):
    """Each is replaced by values of another type, and the message names the key and the value."""
    raw = plain(chosen(options), resolve=False)
    groups = {group.split("/")[0] for group, _ in options if group not in CLASSLESS} - {"task"} or {"data", "trainer"}
    for place in [place for group in groups for place in scalars(raw[group], (group,))]:
        (node, *_) = [place[:i] for i in range(1, len(place)) if TARGET in (at(raw, place[:i]) or ())] or [None]
        argument = next(p for i in range(len(place), 0, -1) if isinstance(at(raw, (p := place[:i])[:-1]), dict))
        if node is None:
            continue  # a value of a callback that is not among those of the run
        for wrong in [*WRONG.get(type(at(raw, place)), []), NOTHING]:
            changed = deepcopy(raw)
            at(changed, place[:-1])[place[-1]] = wrong
            with pytest.raises(UserError) as error:
                Configuration(changed, None, (Stored,)).value(object, node)
            message = str(error.value)
            assert any(
                message.startswith(f"{key_of(p)}={shown(at(changed, p))} must be ") for p in (argument, argument[:-1])
            ), message
            assert "\n" not in message


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as error:
        check_settings(composed(*overrides), Training)
    return str(error.value)


COUNT, NONE_OR_MORE, BELOW_ONE = (
    "a whole number, 1 or more",
    "a whole number, 0 or more",
    "a number, 0 or more and below 1",
)
WIDTH = "a whole number from 1 to 65,536"
TABLE = {
    "seed=-1": "a whole number from 0 to 4,294,967,295",
    "seed=1.5": "a whole number from 0 to 4,294,967,295",
    "seed=null": "a whole number from 0 to 4,294,967,295",
    "data.flip=maybe": "true or false",
    "data.flip=1": "true or false",
    "data.batch_size=abc": COUNT,
    "data.batch_size=true": COUNT,
    "data.batch_size=0": COUNT,
    "data.num_workers=-1": NONE_OR_MORE,
    "data.validation=abc": f"{NONE_OR_MORE}, or {BELOW_ONE}",
    "data.validation=1.5": f"{NONE_OR_MORE}, or {BELOW_ONE}",
    "data.channels=2": "one of 1, 3, 4, auto",
    "data.part=tets": "one of train, test",
    "data.root=2024": "text or null",
    "conditioner.dropout=7": "a number from 0 to 1",
    "optimizer.lr=abc": "a number, 0 or more",
    "optimizer.lr=-1": "a number, 0 or more",
    "optimizer.lr=inf": "a number, 0 or more",
    "optimizer.betas=[0.9]": f"a list of 2 values, each {BELOW_ONE}",
    "optimizer.betas=[0.9,1]": f"a list of 2 values, each {BELOW_ONE}",
    "optimizer.betas=0.9": f"a list of 2 values, each {BELOW_ONE}",
    "guidance.scale=abc": "a number",
    "guidance.scale=nan": "a number",
    "guidance.scale=inf": "a number",
    "sampler.steps=1.5": "a whole number from 1 to 100,000",
    "sampler.steps=0": "a whole number from 1 to 100,000",
    "sampler.steps=-3": "a whole number from 1 to 100,000",
    "model.channels=0": WIDTH,
    "model.dropout=1.0": BELOW_ONE,
    "sampler.steps=10000000": "a whole number from 1 to 100,000",
    "trainer.precision=8": "one of auto, 32-true, bf16-mixed, 16-mixed",
    "trainer.precision=null": "one of auto, 32-true, bf16-mixed, 16-mixed",
    "trainer.precision=true": "one of auto, 32-true, bf16-mixed, 16-mixed",
    "model.channels=-8": WIDTH,
    "model.channels=1.5": WIDTH,
    "model.channels=[8]": WIDTH,
    "model.channel_mult=[]": "a list of 1 to 16 values, each a whole number from 1 to 64",
    "model.channel_mult=[1,a]": "a list of 1 to 16 values, each a whole number from 1 to 64",
    "model.channel_mult=2": "a list of 1 to 16 values, each a whole number from 1 to 64",
    "ema.profiles.std005.std=0.3": "a number above 0 and below 0.288675",
    "ema.profiles.std005=5": "a Profile (a node with _target_)",
    "sampler.grid=5": "a Grid (a node with _target_)",
    "callbacks.sample_metrics.n=2.5": "a whole number, 2 or more",
    "callbacks.checkpoints.every_n_steps=-1": NONE_OR_MORE,
    "trainer.accumulate_grad_batches=0": COUNT,
    "trainer.val_check_interval=0": COUNT,
    "trainer.log_every_n_steps=-1": NONE_OR_MORE,
    "trainer.max_steps=0": COUNT,
    "trainer.max_steps=-1": COUNT,
    "trainer.max_steps=many": COUNT,
    "trainer.devices=0": 'device numbers in quotes, "0,1"',
    "trainer.strategy=abc": "auto, ddp, fsdp2 or another of Lightning's strategies that leave the averages whole",
    "trainer.accelerator=gpus": "one of auto, cpu, gpu, cuda, mps, tpu",
    "trainer.gradient_clip_val=-1": "a number, 0 or more, or null",
    "trainer.val_check_interval=abc": COUNT,
}


def test_wrong_values_are_refused_in_words():
    for typed, meant in TABLE.items():
        message = refusal(typed)
        assert message.startswith(f"{typed} must be "), message
        assert meant in message if typed.startswith("trainer.") else message.endswith(f" be {meant}."), message


def test_keys_that_are_not_there_are_refused_with_the_one_that_was_meant():
    for nothing in ("+foo=1", "+foo.bar=1", "++foo.bar=1", "+foo={bar:{baz:1}}"):
        assert refusal(nothing).startswith("there is no key foo; there are ")
    check_settings(composed("+mine.rate=0.5", "optimizer.lr=${mine.rate}"), Training)
    assert refusal("+model.channelz=1").endswith(" Did you mean model.channels?")
    assert refusal("+model.channelz=1").startswith("there is no key model.channelz; there are ")
    assert refusal("+sed=1").endswith(" Did you mean seed?")
    assert refusal("+optimizer.decay.x=1") == "there is no key optimizer.decay.x; there is none."


def test_a_node_of_another_kind_is_refused():
    assert refusal("schedule={_target_:oboro.sampler.Heun}").startswith(
        "schedule is a Heun and must be a Schedule (a node with _target_). Choose schedule=cosine|ddpm|"
    )
    assert refusal("sampler={_target_:builtins.dict}").startswith("sampler is a dict and must be a Sampler (a node")
    assert refusal("+metrics.x={_target_:oboro.model.UNet}").startswith("metrics.x is an UNet and must be a Metric")
    assert refusal("sampler={_target_:oboro.sampler.Hen}").startswith(
        "sampler._target_=oboro.sampler.Hen cannot be imported"
    )


def test_what_is_meant_in_another_type_gets_it():
    typed = {
        "callbacks.sample_metrics.n=2e1": 20,
        "data.batch_size=1e1": 10,
        "model.channel_mult=[1.0,2e0]": [1, 2],
        "data.flip=no": False,
        "data.flip=Yes": True,
        "data.validation=1e2": 100,
        "optimizer.lr=1": 1,
    }
    for override, meant in typed.items():
        config = composed(override)
        check_settings(config, Training)
        value = OmegaConf.select(config, override.partition("=")[0])
        value = OmegaConf.to_container(value) if OmegaConf.is_list(value) else value
        assert value == meant and type(value) is type(meant), override
        if isinstance(value, list):
            assert all(type(v) is int for v in value)


def test_the_key_is_named_where_the_value_was_written():
    """Batch size goes on to the logger, channels to codec and network."""
    assert refusal("data.batch_size=0").startswith("data.batch_size=0 ")
    assert refusal("codec.channels=0").startswith("codec.channels=0 ")
    assert refusal("discriminator_optimizer=5", "task=autoencoder").startswith(
        "discriminator_optimizer=5 must be an Opt"
    )


@pytest.mark.parametrize(
    ("command", "settings", "typed"),
    [
        ("sample", Sampling, ["seed=1.5", "label=true", "label=1.5", "label=abc", "n=abc", "n=0", "chunk=0", "npz=7"]),
        ("sample", Sampling, ["previews=-1", "ema_std=0.3", "adapter_scale=x", "precision=x", "accelerator=x"]),
        ("evaluate", Evaluating, ["n=1", "repeats=0", "bits_per_dim.n=-1", "bits_per_dim.steps=1.5", "devices=0"]),
        ("detect", Detecting, ["share=2", "score=median", "smoothing=-1", "normals=1", "follow=-1", "resamples=0"]),
        ("evaluate", Evaluating, ["seed=-1", "reference=5", "watch=5", "idle=-1", "images=7"]),
    ],
)
def test_values_at_the_root_of_sampling_and_evaluation(command, settings, typed):
    offer_checkpoint([])
    for override in typed:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(command, ["output_dir=outputs", override])
        with pytest.raises(UserError) as error:
            check_settings(config, settings)
        assert str(error.value).startswith(f"{override} must be ")
