"""What a configuration holds is what was typed."""

import inspect
import os
import random
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

import runs
from oboro.base.errors import UserError
from oboro.base.grammar import parsed, plain, quoted, values
from oboro.cli.arguments import PATH, SENTENCES, for_hydra, split

# What a file system allows and shells pass on: all that Hydra's, OmegaConf's and the shell's grammars give a meaning.
PIECES = [
    *"ab1 =,[](){}&$#%~-+*?!@:;<>|'\"\\^.é中",
    "\u2028",
    "\t",
    "\n",
    "${",
    "\\${",
    "${seed}",
    "\\'",
    "null",
    "1e5",
]
KEYS = ("checkpoint", "init", "data.root", "codec.path", "hint", "+data.prior_root", "images", "callbacks.x.folder")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def held(word: str, *flags: str):
    """What the configuration holds after ``word``; a sweep's values as a tuple."""
    (result,) = (w for w in for_hydra([word, *flags]) if not w.startswith("-"))
    override = parsed(result)
    if override.is_sweep_override():
        return tuple(plain(value) for value in override.value().list)
    return plain(override.value())


def some(seed: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice(PIECES) for _ in range(draw.randint(1, 9)))


def test_quoted_text_is_read_as_it_was():
    for seed in range(2000):
        text = some(seed)
        assert plain(parsed(f"key={quoted(text)}").value()) == text


def test_a_path_that_exists_is_the_path_that_was_typed(here):
    """With and without a sweep, and once more: ranks and jobs of a sweep get the words that Hydra got."""
    for seed in range(200):
        name, key = some(seed), KEYS[seed % len(KEYS)]
        if name.strip(".") in ("", "null"):
            continue
        (here / name).mkdir()
        if "${" in name and "." in key:
            with pytest.raises(UserError, match="takes for a reference"):
                for_hydra([f"{key}={name}"])
        else:
            typed = name if not name.startswith("~") else f"./{name}"
            once = for_hydra([f"{key}={name}"])
            assert held(f"{key}={name}") == held(f"{key}={name}", "-m") == typed
            assert for_hydra(once) == once
        (here / name).rmdir()


def test_a_path_that_does_not_exist_is_named_as_it_was_typed(here):
    for seed in range(1000):
        name = some(seed)
        if name == "null" or name[0] in "[\"'~" or "${" in name or "\\" in name:
            continue
        assert held(f"{KEYS[seed % len(KEYS)]}={name}") == name


# typed, what the configuration holds
TYPED = {
    "data.root=~/pictures": f"{Path.home()}/pictures",
    "data.root=007": "007",
    "data.root=2024": "2024",
    "data.root=1e5": "1e5",
    "data.root=true": "true",
    "data.root=null": None,
    "data.root=": "",
    "data.root=Für Élise (1) [x] & co": "Für Élise (1) [x] & co",
    "hint=-1": "-1",
    "hydra.run.dir=a=b": "a=b",
    'checkpoint="runs/a=b,c/last.ckpt"': "runs/a=b,c/last.ckpt",
    "checkpoint='runs/a=b,c/last.ckpt'": "runs/a=b,c/last.ckpt",
    "checkpoint=runs/a=b,c/last.ckpt": "runs/a=b,c/last.ckpt",
    "prompt=a shoe, black": "a shoe, black",
    "prompt=a ${seed}": "a ${seed}",
    "prompt='n' roll": "'n' roll",
    "prompt=[a shoe, ein größerer]": ["a shoe", "ein größerer"],
    "prompt=[null, a]": [None, "a"],
    "prompt=null": None,
    "negative={label:300}": "{label:300}",
    "guidance.negative={label:3}": {"label": 3},
    "data.shards=a/{0000..0127}.tar": "a/{0000..0127}.tar",
    "data.shards=[é1.tar,b.tar]": ["é1.tar", "b.tar"],
    "data.split=train[:10%]": "train[:10%]",
    "data.split='train[:10%]'": "train[:10%]",
    "data.name=Åland & co": "Åland & co",
    "model.channel_mult=[1,2]": [1, 2],
    "guidance.scales.image=1.5": 1.5,
    "+guidance.scales.mask=2": 2,
    "n=1e3": 1000.0,
    "label=true": True,
    "trainer.max_steps=8": 8,
    "hydra.sweep.subdir=${hydra.job.num}": "${hydra.job.num}",
    "x=null": None,
    "x=[null]": [None],
    "x=~/a": f"{Path.home()}/a",
}


@pytest.mark.parametrize("word", TYPED)
def test_what_is_typed_is_what_is_held(word, here):
    assert held(word) == TYPED[word]


SWEEPS = {
    "checkpoint=a.ckpt,b.ckpt": ("a.ckpt", "b.ckpt"),
    "checkpoint=é.ckpt,b=1.ckpt": ("é.ckpt", "b=1.ckpt"),
    'checkpoint="a,b.ckpt",c.ckpt': ("a,b.ckpt", "c.ckpt"),
    "checkpoint=exists,too": "exists,too",
    "checkpoint=exists,too,b.ckpt": ("exists,too", "b.ckpt"),
    "checkpoint=b.ckpt,exists,too": ("b.ckpt", "exists,too"),
    "hydra.sweep.dir=a[1],b": ("a[1]", "b"),
    "sampler.steps=1,2": (1, 2),
    "data.split=train[:1%],train[:2%]": ("train[:1%]", "train[:2%]"),
    "prompt=a shoe, black": "a shoe, black",
    'prompt="a","b"': ("a", "b"),
    "model.channel_mult=[1,2],[1,4]": ([1, 2], [1, 4]),
}


@pytest.mark.parametrize("word", SWEEPS)
def test_commas_separate_values_of_a_sweep(word, here):
    (here / "exists,too").touch()
    assert held(word, "-m") == SWEEPS[word]


def test_a_comma_in_a_path_that_is_not_there_is_no_sweep(here):
    with pytest.raises(UserError, match=r"names nothing that exists, .* quotes: 'checkpoint=\"runs/a,b/last.ckpt\"'"):
        held("checkpoint=runs/a,b/last.ckpt", "-m")


UNREADABLE = {
    "data.batch_size": "data.batch_size has no value; write data.batch_size=...",
    "model.channel_mult=[1,2": (
        "model.channel_mult=[1,2 cannot be read; close its brackets and quotes, or quote a text: "
        "'model.channel_mult=\"[1,2\"'."
    ),
    'x="a': "x=\"a cannot be read; close its brackets and quotes, or quote a text: 'x='\"'\"'\"a'\"'\"''.",
    "é=3": "é=3 is no key=value; put the whole of it in quotes if it has spaces.",
    "a red shoe": "a red shoe is no key=value; put the whole of it in quotes if it has spaces.",
    "data.prompt=a ${seed}": (
        "data.prompt=a ${seed} has ${, which a configuration takes for a reference; choose another name."
    ),
    "data.root=a\udcff": "the value of data.root is not UTF-8; rename the file, or give a link to it.",
}


@pytest.mark.parametrize("word", UNREADABLE)
def test_what_cannot_be_read_is_said_in_one_line(word, here):
    with pytest.raises(UserError, match=f"^{re.escape(UNREADABLE[word])}$"):
        for_hydra([word])


def test_flags_may_stand_anywhere():
    assert for_hydra(["a=1", "-m", "b=2", "--config-dir", "x=y", "--info", "c=3"]) == [
        *("-m", "--config-dir", "x=y", "--info", "a=1", "b=2", "c=3")
    ]
    assert values(for_hydra(["checkpoint=a,b.ckpt"]), "checkpoint") == ["a,b.ckpt"]


def test_parts_between_commas():
    assert split("a,[b,c],{d:1,e:2},'f,g',h(i,j)") == ["a", "[b,c]", "{d:1,e:2}", "'f,g'", "h(i,j)"]
    assert split("it's,fine") == ["it's", "fine"] and split("a[,b") == ["a[,b"]


def test_every_path_among_the_arguments_of_options_is_known_by_its_name():
    """An option file configures a class; where an argument of it takes a ``Path``, its name is one of paths."""
    unknown = set()
    for file in (runs.ROOT / "conf").rglob("*.yaml"):
        target = OmegaConf.load(file).get("_target_")
        if target and target.startswith("oboro."):
            hints = get_type_hints(get_class(target).__init__)
            takes = {name for name, hint in hints.items() if Path in (hint, *get_args(hint))}
            unknown |= {f"{target}({name})" for name in takes if not PATH.fullmatch(name)}
            assert takes <= set(inspect.signature(get_class(target).__init__).parameters) | {"return"}
    assert unknown == set()


def test_every_key_at_the_root_that_is_a_path_is_known_by_its_name():
    """The comments of train.yaml, sample.yaml and evaluate.yaml say which are."""
    for name in ("train", "sample", "edit", "evaluate", "detect"):
        for line in (runs.ROOT / "conf" / f"{name}.yaml").read_text().splitlines():
            if match := re.match(r"(\w+): null # .*\b(path|file|folder|picture|\.npz)\b", line):
                assert PATH.fullmatch(match[1]) or match[1] in SENTENCES or match[1] == "profile", line


def test_a_run_reads_pictures_from_a_folder_of_any_name(tmp_path):
    """From the command line to the checkpoint, and back from ``checkpoint=`` of such a name."""
    import numpy as np
    from PIL import Image

    name = "Für Élise, [x]=(1) & 'co' #1 100% $HOME {a}"
    root = tmp_path / name
    root.mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
    arguments = runs.toy(
        "data=image_folder", f"data.root={root}", "data.resolution=16", "data.validation=1", runs.NO_EVALUATION
    )
    small = [f"data.cache_dir={tmp_path}", "metrics=[]", "trainer.max_steps=1"]
    run = runs.call("train.py", f"hydra.run.dir={root}/run", *arguments, *small, cwd=tmp_path)
    assert all(line.startswith("warning: ") for line in runs.succeeded(run).stderr.splitlines()), run.stderr
    written = root / "run/checkpoints/last.ckpt"
    drawn = ["n=1", "sampler.steps=1", "accelerator=cpu", f"hydra.run.dir={root}/out"]
    run = runs.call("sample.py", f"checkpoint={written}", *drawn, cwd=tmp_path)
    assert runs.succeeded(run) and os.listdir(root / "out/images") == ["000000.png"]
