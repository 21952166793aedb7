"""The laws of the configuration: an option names its class, a selected group is used, an experiment builds."""

import inspect
import re
from copy import deepcopy
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

import oboro.restore.wrapped  # noqa: F401 - options ask it for the factor of a codec
from cases import over
from conftest import GRIDS, SAMPLERS, SCHEDULES
from interop import tiny
from oboro.adapter import Adapter
from oboro.anomalies import Anomalies
from oboro.cli.checkpoint import offer_checkpoint
from oboro.cli.run import RESOLVERS
from oboro.data import DataModule
from oboro.detector import Detector
from oboro.distance import Distance
from oboro.edit import Edit
from oboro.guidance import Guidance
from oboro.guidance.weight import Weight as GuidanceWeight
from oboro.loss.coupling import Coupling
from oboro.loss.curriculum import Curriculum
from oboro.loss.features import Features
from oboro.loss.noise import Noise
from oboro.loss.penalty import Penalty
from oboro.loss.perceptual import Perceptual
from oboro.loss.time import TimeDistribution
from oboro.loss.weighting import Weight
from oboro.parameterization import Parameterization
from oboro.restore import inlined
from oboro.sampler import Grid, Sampler
from oboro.schedule import Schedule

CONF = Path(__file__).resolve().parents[1] / "conf"
for place in RESOLVERS.values():
    import_module(place.rpartition(".")[0])
FAMILIES = {
    "adapter": Adapter,
    "anomalies": Anomalies,
    "detector": Detector,
    "distance": Distance,
    "edit": Edit,
    "schedule": Schedule,
    "parameterization": Parameterization,
    "sampler": Sampler,
    "sampler/grid": Grid,
    "guidance": Guidance,
    "guidance/weight": GuidanceWeight,
    "loss/time": TimeDistribution,
    "loss/weighting": Weight,
    "loss/penalty": Penalty,
    "loss/coupling": Coupling,
    "loss/curriculum": Curriculum,
    "loss/perceptual": Perceptual,
    "loss/features": Features,
    "loss/noise": Noise,
}
FOLDER = TemporaryDirectory(prefix="oboro-tests-")
CLASSLESS = ("experiment", "debug", "hparams_search")  # these change a run; the others configure one class each
OF_AUTOENCODERS = ("loss/perceptual", "loss/discriminator")  # groups that task=autoencoder has
OF_GANS = ("loss=gan", "loss/discriminator=dcgan", "loss/discriminator=dcgan_small", "model=dcgan", "model=dcgan_small")
OF_SAMPLES = ("anomalies", "detector", "distance", "edit", "measurement")  # groups that what follows training alone has
DISTILLED = ("task=distillation", "loss=dmd2", "loss=sid", "loss=add")  # options that have a teacher, and their task
DISTILLED += ("experiment=dmd2_cifar10", "experiment=dmd2_fashion")
SEVERAL = ("callbacks", "distance", "logger", "metrics")  # groups of which a run takes several options
SEARCH = ("*/*.yaml", "*/*/*.yaml")  # groups, and groups nested in them: loss/time
PATHS = [path.relative_to(CONF) for pattern in SEARCH for path in CONF.glob(pattern)]
GROUPS = {path.parent.as_posix() for path in PATHS}
OPTIONS = sorted((path.parent.as_posix(), path.stem) for path in PATHS if path.parts[0] != "hydra")


# Groups of which any options go together: the k-th option of each is composed and built with the k-th of the others.
INDEPENDENT = ("ema", "extractor", "measurement", "optimizer", "sampler", "schedule", "trainer")
INDEPENDENT += ("loss/coupling", "loss/penalty", "loss/time", "loss/weighting")


def named(options) -> dict[str, tuple[str, str]]:
    return {"=".join(option): option for option in options}


def at_once(options) -> dict[str, list[tuple[str, str]]]:
    """Options that a single composition chooses: all of SEVERAL, one of each of INDEPENDENT, or one alone."""
    options = list(options)
    of = {group: [option for option in options if option[0] == group] for group, _ in options}
    rounds = [[o for o in k if o] for k in zip_longest(*(of.pop(group) for group in INDEPENDENT))]
    rounds += [of.pop(group) for group in SEVERAL] + [[option] for options in of.values() for option in options]
    return {" ".join("=".join(option) for option in chosen): chosen for chosen in rounds}


each_class_option = over(option=named(option for option in OPTIONS if option[0] not in CLASSLESS))


@cache
def compose_once(choices: tuple[str, ...]):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*choices, "output_dir=outputs"])


def chooses(override: str) -> bool:
    """Whether it chooses an option; else it sets a value."""
    key = override.lstrip("+~").partition("=")[0]
    return "@" in key or key in GROUPS


def composed(*overrides: str):
    """The configuration of ``python train.py OVERRIDES``: values are set as Hydra sets them, in what it composes of the
    choices."""
    config = deepcopy(compose_once(tuple(filter(chooses, overrides))))
    values = [override for override in overrides if not chooses(override)]
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), config)
    return config


DISTILLING = (  # what needs a teacher
    "experiment=cd_fashion",
    "experiment=mean_flow_fashion",
    "experiment=pd_fashion",
    "experiment=scd_cifar10",
    "experiment=scd_fashion",
    "loss=consistency_distillation",
    "loss=consistency_latent",
    "loss=consistency_latent_scales",
    "loss=continuous_consistency_distillation",
    "loss=mean_flow_distillation",
    "loss=progressive",
    "loss=reflow",
    "loss=truncated_consistency",
)


@cache
def learned_by(task: str) -> str:
    """The path of a checkpoint of ``task=<task>``, its weights those of the start."""
    built = instantiate(plain(composed(f"task={task}"))["task"], _convert_="all")
    built.ema.start(built.learned)
    config = plain(composed(f"task={task}"))
    averages = built.ema.state_dict(built.learned)
    path = Path(FOLDER.name) / f"{task}.ckpt"
    torch.save({"config": config, "ema": averages, "state_dict": built.state_dict(), "global_step": 0}, path)
    return str(path)


@cache
def published() -> str:
    """A folder with the autoencoder, the text encoder and the tokenizer of a tiny pipeline of diffusers, with a T5
    and a CLIP of OpenCLIP in folders of their own."""
    folder = Path(FOLDER.name) / "published"
    tiny.autoencoder().save_pretrained(folder / "vae")
    tiny.clip().save_pretrained(folder / "text_encoder")
    tiny.tokenizer(folder / "tokenizer")
    tiny.t5().save_pretrained(folder / "t5")
    tiny.t5_tokenizer(folder / "t5")
    tiny.open_clip(folder / "open_clip")
    return str(folder)


def distilled(option: str) -> list[str]:
    """The overrides that choose an option of ``task=distillation``, with a teacher, and a classifier for loss=add."""
    chosen = ["task=distillation", *(["loss=add"] * option.startswith("loss/features")), option]
    needs = [f"loss.teacher.path={learned_by('diffusion')}"]
    if option in ("loss=add", "loss/features=classifier"):
        needs.append(f"loss.features.classifier.path={learned_by('classification')}")
    return [*dict.fromkeys(chosen), *needs]


def choosing(group: str, name: str) -> list[str]:
    """The overrides that choose an option, with what it cannot do without."""
    needs = {
        "data=image_folder": ["data.root=pictures"],
        "data=hugging_face": ["data.path=pictures"],
        "data=hugging_face_edits": ["data.path=pictures"],
        "data=dreambooth": ["data.root=pictures", "data.prompt=a zwx bag", "data.prior_root=samples"],
        "data=web_dataset": ["data.shards=pictures/*.tar"],
        "data=streaming": ["data.root=shards"],
        "data=mvtec": ["data.root=bottle"],
        "anomalies=other": ["anomalies.source.root=pictures"],
        "data=series": ["data.path=series.npy", "model=unet_1d"],
        "parameterization=eps": ["schedule=vp"],
        "extractor=trained_clip": ["extractor.path=last.ckpt"],
        "measurement=mask_file": ["measurement.path=mask.png"],
        "measurement=mask_outside": ["measurement.height=28", "measurement.width=28"],
        "guidance=autoguidance": ["guidance.weak.path=last.ckpt"],
        "guidance=classifier": ["guidance.classifier.path=last.ckpt"],
        "guidance=per_condition": ["guidance.scales={label: 2}"],
        "sampler/grid=sigmas": ["sampler.grid.sigmas=[80,1,0.01]"],
        "sampler/grid=times": ["sampler.grid.times=[1,0.5,0]"],
    }
    if f"{group}={name}" in (
        "codec=trained",
        "codec=trained_emoji",
        "experiment=edit_emoji",
        "experiment=ldm_fashion_text",
        "experiment=emoji_text",
    ):
        needs[f"{group}={name}"] = [f"codec.path={learned_by('autoencoder')}"]
    if f"{group}={name}" in ("conditioner=text", "data=dreambooth", "experiment=ldm_fashion_text"):
        needs.setdefault(f"{group}={name}", []).append(f"conditioner.encoder.path={learned_by('clip')}")
    if f"{group}={name}" in ("model=controlnet", "model=t2i_adapter", "experiment=control_edges_fashion"):
        # Of a run the condition comes with the path.
        needs[f"{group}={name}"] = [f"model.base.path={learned_by('diffusion')}", "conditioner=control"]
    if f"{group}={name}" in ("conditioner=joint", "conditioner=joint_text_image", "conditioner=joint_edit"):
        needs[f"{group}={name}"] = [f"conditioner.parts.text.encoder.path={learned_by('clip')}"]
    if f"{group}={name}" == "experiment=edit_emoji":
        needs["experiment=edit_emoji"] += [f"conditioner.parts.text.encoder.path={learned_by('clip')}"]
        needs["experiment=edit_emoji"] += [f"extractor.path={learned_by('clip')}", "data.channels=1"]
    if f"{group}={name}" == "experiment=emoji_text":
        # The stand-in of the codec is of one channel.
        needs["experiment=emoji_text"] += [f"extractor.path={learned_by('clip')}", "data.channels=1"]
    if f"{group}={name}" in DISTILLING:
        needs[f"{group}={name}"] = [f"loss.teacher.path={learned_by('diffusion')}"]
    if f"{group}={name}" == "codec=diffusers":
        needs["codec=diffusers"] = [f"codec.path={published()}/vae"]
    for kind in ("t5", "open_clip"):
        if f"{group}={name}" == f"conditioner=text_{kind}":
            needs[f"{group}={name}"] = [f"conditioner.encoder.path={published()}/{kind}"]
    if f"{group}={name}" in ("conditioner=text_clip", "model=ldm_unet_text"):
        read = ["conditioner=text_clip", f"conditioner.encoder.path={published()}"]
        needs[f"{group}={name}"] = read if group == "model" else read[1:]
    if group == "loss/features" or f"{group}={name}" in DISTILLED:
        return distilled(f"{group}={name}")
    if group == "loss/curriculum":
        return ["loss=consistency", f"{group}={name}"]
    if group == "teacher":
        return [f"+{group}={name}", f"teacher.path={learned_by('diffusion')}"]
    if f"{group}={name}" in OF_GANS:
        return ["task=gan", f"{group}={name}"]
    if f"{group}={name}" in ("loss=variational", "model=vae"):
        return ["loss=variational", *["model=vae"] * (group == "model")]
    if group in OF_AUTOENCODERS or f"{group}={name}".startswith("loss=reconstruction"):
        return ["task=autoencoder", f"{group}={name}"]
    if group == "detector":
        return ["+distance=[pixel]", f"+detector={name}"]
    added = "+" * (group in OF_SAMPLES)  # training has none
    return [f"{added}{group}={name}", *needs.get(f"{group}={name}", [])]


def plain(config) -> dict:
    """Everything resolved, as ``train.py`` does; the trainer on the CPU."""
    config.trainer.precision, config.trainer.accelerator = "32-true", "cpu"
    for key, value in {"channels": 3, "resolution": 64, "num_classes": 10}.items():  # what is counted of the data
        if config.data.get(key) == "auto":
            config.data[key] = value
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return inlined(resolved)[0]


def build(node):
    """The objects of a node, its networks without memory."""
    with torch.device("meta"):
        return instantiate(node, _convert_="all")


def nodes(value):
    """Every dictionary with a ``_target_``, at any depth."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        yield from chain.from_iterable(nodes(child) for child in value.values())
    elif isinstance(value, list):
        yield from chain.from_iterable(nodes(child) for child in value)


def part(config, group: str):
    """The node of a group, config.loss.time for loss/time."""
    return OmegaConf.select(config, group.replace("/", "."))


def option_node(group: str, name: str):
    return part(composed(*choosing(group, name)), group)


def target(group: str, name: str) -> str:
    """The path of the class: that of the option, or of the option that it varies."""
    config = OmegaConf.load(CONF / group / f"{name}.yaml")
    config = config.task if group == "task" else config  # the wiring is a whole configuration
    if "_target_" in config:
        return config._target_
    (base,) = [default for default in config.defaults if isinstance(default, str) and default != "_self_"]
    return target(group, base)


# --- first law: each option names its class


@each_class_option
def test_an_option_names_its_class(option):
    """conf/<group>/<name>.yaml configures oboro.<group>.<Name>; a variant has a longer name.

    conf/loss/time/<name>.yaml configures oboro.loss.time.<Name>.
    """
    group, name = option
    module, _, cls = target(group, name).rpartition(".")
    stem, cls = name.replace("_", ""), cls.lower()
    if module.startswith("lightning."):  # a foreign class: trainer=default, logger=tensorboard
        assert cls.startswith(stem) or name == "default"
    else:
        assert module == (
            f"oboro.{group.replace('/', '.')}" if name not in ("trained", "trained_emoji") else "oboro.restore"
        )
        assert stem.startswith(cls)


@over(option=named(option for option in OPTIONS if option[0] not in (*CLASSLESS, "task")))  # the task is the wiring
def test_an_option_fits_on_a_screen(option):
    group, name = option
    assert len((CONF / group / f"{name}.yaml").read_text().splitlines()) <= 28


def concrete(family):
    """The classes of a family that can be built; between them and it there may be abstract ones."""
    for cls in family.__subclasses__():
        if not inspect.isabstract(cls):
            yield cls
        yield from concrete(cls)


@pytest.mark.parametrize("group", FAMILIES)
def test_every_class_has_an_option(group):
    chosen = {get_class(target(group, name)) for g, name in OPTIONS if g == group}
    home = f"oboro.{group.replace('/', '.')}"  # tests have more, and losses some that nobody chooses
    ours = {cls for cls in concrete(FAMILIES[group]) if cls.__module__.startswith(home) or cls in chosen}
    assert chosen == ours


# --- second law: every selected group is used


TASKS = [name for group, name in OPTIONS if group == "task"]
each_task = pytest.mark.parametrize("task", TASKS)


def wiring(task: str) -> str:
    """The text of all options, of the tasks that of one."""
    options = ((group, name) for group, name in OPTIONS if group not in (*CLASSLESS, "task"))
    return "\n".join((CONF / group / f"{name}.yaml").read_text() for group, name in [("task", task), *options])


@each_task
def test_every_selected_group_is_used_by_the_wiring(task):
    text = (CONF / "task" / f"{task}.yaml").read_text()
    groups = re.findall(r"^  - /(\w+)(?:/\w+)?:", text, re.M)
    chosen_by_options = re.findall(r"^  - /\w+@_global_\.(\w+):", wiring(task), re.M)
    assert len(groups) >= 5 and set(chosen_by_options) == {"conditioner", "extractor", "optimizer"}
    used = set(re.findall(r"\$\{(\w+)[.}]", wiring(task)))
    assert set(groups) | set(chosen_by_options) <= used
    assert set(groups) - {"data", "hint"} <= set(re.findall(r"\$\{(\w+)[.}]", text))


@pytest.mark.slow
def test_every_folder_is_a_group_that_an_entry_point_selects():
    configs = [composed(), composed("loss=consistency"), composed("task=distillation", "loss=add")]
    configs += [*(composed(f"task={task}") for task in TASKS)]
    inside = set(re.findall(r"/(\w+)@\w+: ", wiring("diffusion")))  # of another option: the teacher of a loss
    entries = "\n".join(
        (CONF / f"{entry}.yaml").read_text() for entry in ("train", "sample", "edit", "evaluate", "detect")
    )
    for group in {group for group, _ in OPTIONS}:
        chosen = any(part(config, group) is not None for config in configs)
        assert chosen or group in inside or re.search(rf"^  - {group}:", entries, re.M), group


@each_task
def test_the_task_is_wired_to_every_argument_of_its_constructor(task):
    task = composed(f"task={task}").task
    assert set(task) - {"_target_"} == set(inspect.signature(get_class(task._target_)).parameters)


# --- third law: every shipped experiment builds


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for group, name in OPTIONS if group == "experiment"])
def test_experiments_build(name):
    config = plain(composed(*choosing("experiment", name)))
    task = build(config["task"])
    for node in ("callbacks", "logger", "trainer"):
        instantiate(config[node], _convert_="all")
    task.check(instantiate(config["data"], _convert_="all"))


# --- and what follows from them


BUILT = at_once(option for option in OPTIONS if option[0] != "experiment")


@pytest.mark.slow
@pytest.mark.parametrize("options", BUILT.values(), ids=BUILT)
def test_options_build_with_arguments_that_exist(options):
    """A misspelt key fails: YAML repeats the signature, and everything but the data, which is on disk, is built."""
    if options[0][0] in SEVERAL:
        added = "+" * (options[0][0] in OF_SAMPLES)
        chosen = [f"{added}{options[0][0]}=[{','.join(name for _, name in options)}]"]
    else:
        chosen = [override for option in options for override in choosing(*option)]
    config = plain(composed(*chosen))
    for node in nodes(config):
        arguments = {k: v for k, v in node.items() if k not in ("_target_", "_convert_")}
        made = get_class(node["_target_"])
        signature = inspect.signature(made)
        signature.bind_partial(**arguments)
        if issubclass(made, DataModule):  # of which every one has the settings of the class above
            made.complete({k: v for k, v in arguments.items() if k not in signature.parameters})
    built = {"task", "callbacks", "logger", "trainer", "metrics"} & set(config)
    for name in built:
        build(config[name])
    for group, _ in options:
        if group not in CLASSLESS and group not in ("data", *built):
            build(part(OmegaConf.create(config), group))


def test_nested_options_are_chosen_within_an_option():
    chosen = composed(
        "loss=denoising_edm", "loss/time=logit_normal", "loss/weighting=min_snr", "loss.weighting.gamma=7"
    )
    assert chosen.loss.time._target_.endswith("LogitNormal") and chosen.loss.weighting.gamma == 7
    edm = composed("loss=denoising_edm").loss
    assert (edm.time._target_, edm.weighting._target_) == ("oboro.loss.time.LogNormal", "oboro.loss.weighting.EDM")
    wrapped = composed("loss/weighting=learned_log_variance", "loss/weighting@loss.weighting.base=edm")
    assert wrapped.loss.weighting.base.sigma_data == wrapped.parameterization.sigma_data


def test_a_misspelt_argument_fails():
    config = composed("+sampler.stepz=3")
    with pytest.raises(Exception, match="stepz"):
        build(plain(config)["task"])


@each_task
def test_the_network_is_built_once(task):
    """``${model}`` twice would make two networks: the task has the parameters of one, and of what its loss learns."""
    config = plain(composed(*choosing("task", task)))
    built, network = build(config["task"]), build(config["model" if "model" in config else "codec"])
    size = sum(p.numel() for p in network.parameters())
    assert size > 0 and sum(p.numel() for p in built.learned.parameters()) == size
    assert sum(p.numel() for p in built.parameters()) == size + sum(p.numel() for p in built.loss.parameters())
    text = wiring(task)
    assert text.count("${model}") == ("model" in config) and text.count("${codec}") == text.count("${ema}") == 1


def test_one_value_has_one_owner():
    config = plain(composed("data=cifar10", "conditioner=label", "data.num_classes=7", "seed=5"))
    assert config["model"]["in_channels"] == config["codec"]["channels"] == config["data"]["channels"] == 3
    assert config["task"]["denoiser"]["network"]["num_classes"] == config["conditioner"]["num_classes"] == 7
    assert config["task"]["seed"] == config["data"]["seed"] == 5


def test_data_chooses_condition_and_extractor_until_told_otherwise():
    chosen = composed("data=cifar10")
    assert chosen.conditioner._target_.endswith("Unconditional") and chosen.extractor._target_.endswith("Inception")
    told = composed("data=cifar10", "conditioner=label", "extractor=fashion")
    assert told.conditioner._target_.endswith("Label") and told.extractor._target_.endswith("Fashion")


def test_metrics_are_those_that_are_listed_in_their_order():
    assert list(composed().metrics) == ["frechet", "precision_recall"]
    assert list(composed("metrics=[kernel,frechet]").metrics) == ["kernel", "frechet"]
    assert composed("metrics=[]").metrics == {}


def test_a_variant_changes_only_what_it_names():
    base, variant = composed("data=fashion_mnist").data, composed("data=fashion_mnist_10k").data
    assert {key for key in base if base[key] != variant[key]} == {"part", "validation", "batch_size"}
    ancestral = composed("sampler=ddim_ancestral").sampler
    assert {k: ancestral[k] for k in ancestral if composed("sampler=ddim").sampler[k] != ancestral[k]} == {
        "steps": 1000,
        "eta": 1.0,
    }


@pytest.mark.parametrize("entry", ["sample", "edit", "evaluate", "detect"])
def test_the_other_entry_points_compose(entry):
    offer_checkpoint([])  # the options called from_checkpoint
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(entry, ["checkpoint=last.ckpt", "output_dir=outputs", "sampler=ddim", "sampler.steps=3"])
    assert build(OmegaConf.to_container(config, resolve=True)["sampler"]).steps == 3


@pytest.mark.parametrize("override", ["sampler=eulr", "smapler=ddim", "sampler.step=3", "trainer.max_step=3"])
def test_wrong_options_groups_and_keys_fail(override):
    with pytest.raises(Exception, match="Could not"):
        compose_once((override,))


PRINTED = ("schedule", "sampler", "sampler/grid", "guidance", "guidance/weight")  # in the protocol of a number


@over(option=named(option for option in OPTIONS if option[0] in PRINTED))
def test_what_a_protocol_prints_of_an_object_are_its_settings(option):
    """Public attributes are the arguments of the constructor; what follows from them is private.

    Only the list of ``Times`` has another name, since ``times`` is what every grid is asked for.
    """
    group, name = option
    known = {"schedule": SCHEDULES, "sampler": SAMPLERS, "sampler/grid": GRIDS}.get(group, {})
    made = known[name] if name in known else build(option_node(group, name))
    shown = {"times" if key == "listed" else key for key in vars(made) if not key.startswith("_")}
    assert shown == set(inspect.signature(type(made)).parameters)


# Classes of the nouns' packages that are no options: what others are made of, what is stored, and Tiled, which wraps a
# codec in Python (docs/latent.md).
NO_OPTIONS = {
    "adapter": {"AdapterFile", "LowRank"},
    "anomalies": {"TestSet"},
    "codec": {"Codec", "Tiled"},
    "detector": {"Cost", "Inspection", "Pictures"},
    "data": {"Block", "ImageSettings", "Population", "Settings", "Source", "Split"},
    "edit": {"Model", "Pictures"},
    "extractor": {"Samples"},
    "loss": {"Loss", "Pairs"},
    "measurement": {"Mask", "Measured"},
    "metrics": {
        "Bank",
        "Extracted",
        "FeatureStatistics",
        "Given",
        "Groups",
        "Held",
        "Observation",
        "PairedView",
        "Published",
        "Value",
    },
    "model": {"CLIPText", "EmptyText", "T5Text", "Tokenizer"},
    "sampler": {"Node", "Noise", "Posterior"},
    "task": {"Learner"},
}


def test_every_class_of_a_group_can_be_chosen():
    """Code that no option reaches is tested and kept by nobody."""
    texts = (path.read_text() for path in CONF.rglob("*.yaml"))
    named = {get_class(target) for text in texts for target in re.findall(r"_target_: (oboro[\w.]+)", text)}
    for group in sorted(path.name for path in CONF.iterdir() if path.is_dir()):
        if find_spec(f"oboro.{group}") is None:
            continue
        module = import_module(f"oboro.{group}")
        classes = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
        unnamed = {n for n, c in classes.items() if inspect.isclass(c) and not inspect.isabstract(c) and c not in named}
        assert unnamed == NO_OPTIONS.get(group, set()), group


def test_no_key_of_an_option_has_a_value_where_the_name_stands_for_options():
    """``loss.weighting=one`` would be taken for the group loss/weighting and refused."""
    taken = []
    for file in sorted(CONF.rglob("*.yaml")):
        values = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        for key, value in values.items() if isinstance(values, dict) else ():
            if (file.parent / str(key)).is_dir() and isinstance(value, str | int | float):
                taken.append(f"{file.relative_to(CONF)}: {key}")
    assert not taken
