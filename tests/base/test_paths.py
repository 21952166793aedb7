"""Paths in a configuration that is kept are found from every folder, and names elsewhere stay names."""

import re

import yaml

from oboro.base.paths import places_of, with_absolute_paths
from runs import ROOT

# Arguments of option files that are paths, by name: a new one that is not annotated shows up here.
PATHS = re.compile(r"(path|root|shards|backbone|cache_dir|\w+_path|\w+_root)")


def nodes(node):
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from nodes(child)


def test_every_path_of_an_option_file_is_annotated():
    absent = [
        f"{file.relative_to(ROOT)}: {key}"
        for file in sorted((ROOT / "conf").glob("**/*.yaml"))
        for node in nodes(yaml.safe_load(file.read_text()))
        if str(node.get("_target_")).startswith("oboro.")
        for key in node
        if PATHS.fullmatch(key) and key not in places_of(node["_target_"])
    ]
    assert absent == []


def kept(target, **arguments):
    """What is kept of the arguments of a node deep in a configuration."""
    node = with_absolute_paths({"task": [{"node": {"_target_": target, **arguments}}]})["task"][0]["node"]
    return {k: v for k, v in node.items() if k != "_target_"}


def test_paths_become_absolute_and_names_stay(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "models" / "here").mkdir(parents=True)
    (tmp_path / "a.parquet").touch()
    monkeypatch.chdir(tmp_path)
    folder, home = str(tmp_path), str(tmp_path / "home")
    table = [
        ("oboro.restore.Trained", "path", "weak.ckpt", f"{folder}/weak.ckpt"),
        ("oboro.extractor.TrainedCLIP", "path", "clip.ckpt", f"{folder}/clip.ckpt"),
        ("oboro.data.ImageFolder", "root", "photos", f"{folder}/photos"),
        ("oboro.data.ImageFolder", "root", "~/photos", f"{home}/photos"),
        ("oboro.data.ImageFolder", "root", "/photos", "/photos"),
        ("oboro.data.ImageFolder", "root", "../photos", f"{folder}/../photos"),
        ("oboro.data.ImageFolder", "cache_dir", "cache", f"{folder}/cache"),
        ("oboro.data.ImageFolder", "cache_dir", None, None),
        ("oboro.data.DreamBooth", "prior_root", "bags", f"{folder}/bags"),
        ("oboro.data.DreamBooth", "prompt", "a bag", "a bag"),
        ("oboro.data.Emoji", "root", None, None),
        ("oboro.data.Series", "path", "long.csv", f"{folder}/long.csv"),
        ("oboro.data.WebDataset", "shards", "s/{00..11}.tar", f"{folder}/s/{{00..11}}.tar"),
        ("oboro.data.WebDataset", "shards", "{/a,/b}/*.tar", "{/a,/b}/*.tar"),
        ("oboro.data.HuggingFace", "path", "models/here", f"{folder}/models/here"),
        ("oboro.data.HuggingFace", "path", "*.parquet", f"{folder}/*.parquet"),
        ("oboro.data.HuggingFace", "path", "hf://datasets/x", "hf://datasets/x"),
        ("oboro.data.HuggingFace", "path", "ylecun/mnist", "ylecun/mnist"),
        ("oboro.conditioner.PublishedCLIP", "path", "stabilityai/sd-x", "stabilityai/sd-x"),
        ("oboro.conditioner.PublishedCLIP", "path", "./absent", f"{folder}/absent"),
        ("oboro.extractor.CLIP", "path", "models/here", f"{folder}/models/here"),
        ("oboro.extractor.Inception", "weights_path", "w.pth", f"{folder}/w.pth"),
        ("oboro.loss.perceptual.LPIPS", "heads", "vgg.pth", f"{folder}/vgg.pth"),
        ("no.such.Thing", "path", "as typed", "as typed"),
        ("oboro.sampler.Heun", "steps", 3, 3),
    ]
    wrong = [(row, got) for row in table if (got := kept(*row[:1], **{row[1]: row[2]})) != {row[1]: row[3]}]
    assert wrong == []
