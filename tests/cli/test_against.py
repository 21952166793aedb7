"""What evaluate.py measures a model, or pictures, against; and what it does not read."""

import json
import shutil

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image
from torch import nn

import runs
from oboro.base.errors import UserError
from oboro.conditioner import Text
from oboro.data import ImageFolder
from oboro.evaluate.data_check import check_data
from oboro.restore.checkpoint import load_checkpoint

SMALL = ["n=12", "chunk=6", "metrics=[frechet]"]


def pictures(folder, classes=10, each=4, size=28, channels=1, seed=0):
    """Class folders of random pictures."""
    rng = np.random.default_rng(seed)
    for c in range(classes):
        (folder / f"{c}").mkdir(parents=True, exist_ok=True)
        for i in range(each):
            pixels = rng.integers(0, 256, (size, size, channels), np.uint8)
            Image.fromarray(pixels.squeeze()).save(folder / f"{c}" / f"{i}.png")
    return folder


def folder_data(root, *overrides):
    size = ["data.channels=1", "data.resolution=28", "data.validation=4", "data.num_classes=10", "extractor=fashion"]
    return ["data=image_folder", f"data.root={root}", f"data.cache_dir={runs.cache_dir()}", *size, *overrides]


def call(tmp_path, *arguments):
    return runs.call("evaluate.py", *runs.outputs(tmp_path / "out", *arguments, "accelerator=cpu"), cwd=tmp_path)


def answers(tmp_path, table):
    """Commands of the table that do not end in one line with the words it gives."""
    wrong = []
    for arguments, words in table:
        run = call(tmp_path, *arguments)
        if run.status != 1 or words not in run.stderr or run.stderr.count("\n") != 1:
            wrong.append((arguments, run.status, run.stderr[-300:]))
    return wrong


@pytest.mark.slow
def test_data_that_a_model_does_not_draw_end_in_one_line(checkpoint, tmp_path):
    given = [f"checkpoint={checkpoint}", *SMALL]
    ten, twelve = pictures(tmp_path / "ten"), pictures(tmp_path / "twelve", 12)
    colour = pictures(tmp_path / "colour", channels=3)
    np.savez(tmp_path / "x.npz", series=np.random.default_rng(0).normal(size=(40, 1, 28)))
    drawn = "the checkpoint draws images of 1×28×28 and the data are"
    table = [
        (folder_data(twelve, "data.num_classes=12"), "draws 10 classes and the data have 12 classes; choose data="),
        (folder_data(ten, "data.num_classes=0"), "10 classes and the data have none, since data.num_classes is 0"),
        (folder_data(ten, "data.resolution=32"), f"{drawn} 1×32×32; set data.resolution=28, or choose other data."),
        (folder_data(colour, "data.channels=3"), f"{drawn} 3×28×28; set data.channels=1, or choose other data."),
        (
            folder_data(colour, "data.channels=3", "data.resolution=[28,32]"),
            f"{drawn} 3×28×32; set data.channels=1 data.resolution=28, or choose other data.",
        ),
        (["data.resolution=32"], f"{drawn} 1×32×32; set data.resolution=28"),
        (["data=series", f"data.path={tmp_path / 'x.npz'}", "extractor=raw"], "draws images and the data are series"),
    ]
    assert answers(tmp_path, [([*given, *arguments], words) for arguments, words in table]) == []


@pytest.mark.slow
def test_a_folder_that_says_nothing_of_itself_fits_what_the_model_draws(checkpoint, tmp_path):
    """``auto`` of data=image_folder is a number in evaluate.py, too: of the model where there is one, else of the
    folder."""
    ten, three = pictures(tmp_path / "ten", size=32, channels=3), pictures(tmp_path / "three", 3, 12, 8)
    folder = ["data=image_folder", f"data.cache_dir={runs.cache_dir()}", "extractor=raw", "data.validation=4"]
    given = [f"checkpoint={checkpoint}", *SMALL, *folder]
    run = runs.succeeded(call(tmp_path, *given, f"data.root={ten}"))
    assert "of the model in checkpoint: data.channels=1, data.resolution=28" in run.stdout.splitlines()
    assert f"the data: 10 classes ({', '.join(map(str, range(10)))}) (data.num_classes=10)" in run.stdout
    compared = [*folder, "metrics=[frechet]", f"images={three}"]
    run = runs.succeeded(call(tmp_path, *compared, f"data.root={three}", "overwrite=true"))
    shutil.rmtree(tmp_path / "out")
    assert "the data: 36 images of 8×8, grey; 3 classes (0, 1, 2)" in run.stdout
    wrong = answers(
        tmp_path,
        [
            ([*given, f"data.root={three}"], "draws 10 classes and the data have 3 classes; choose data="),
            ([*given], "error: data.root has no value; set data.root=..."),
            ([*compared, "checkpoint=null"], "error: data.root has no value; set data.root=..."),
        ],
    )
    assert wrong == []


def test_an_empty_value_is_no_choice(checkpoint, tmp_path):
    """``reference=$FILE`` of a variable that was not set must not mean another measurement."""
    words = "= must be text, and not empty, or null."
    said = dict.fromkeys(("reference", "images", "profile", "adapter_file"), words)
    said["watch"] = "= is empty; give a path after it, or leave watch out."
    table = [([f"checkpoint={checkpoint}", *SMALL, f"{key}="], f"error: {key}{line}") for key, line in said.items()]
    chosen = [([f"checkpoint={checkpoint}", *SMALL, f"devices={d}"], "chooses among GPUs") for d in ("-1", "[0,1]")]
    assert answers(tmp_path, [*table, *chosen]) == []


def test_other_data_are_named_and_stand_in_the_protocol(checkpoint, tmp_path):
    trained_on = load_checkpoint(checkpoint)["fingerprint"]
    same = runs.succeeded(call(tmp_path, f"checkpoint={checkpoint}", *SMALL))
    assert "note: the data are not" not in same.stdout
    protocol = runs.evaluation(tmp_path / "out")["protocol"]
    assert protocol["data"] == {"fingerprint": trained_on, "trained_on": trained_on}
    other = folder_data(pictures(tmp_path / "ten"))
    run = runs.succeeded(call(tmp_path, f"checkpoint={checkpoint}", *SMALL, *other, "overwrite=true"))
    (line,) = [line for line in run.stdout.splitlines() if "trained on" in line]
    found = runs.evaluation(tmp_path / "out")["protocol"]["data"]
    assert found["trained_on"] == trained_on != found["fingerprint"]
    assert line == (
        "note: the data are not those that the checkpoint was trained on: "
        f"fingerprint {found['fingerprint'][:6]}, trained on {trained_on[:6]}"
    )


def test_a_folder_is_found_from_another_folder(tmp_path):
    """What is typed is relative to where training was started."""
    pictures(tmp_path / "here" / "ten")
    pictures(tmp_path / "there" / "ten", seed=1)
    settings = [*folder_data("ten"), "conditioner=label", runs.NO_EVALUATION]
    run = runs.train(tmp_path / "here", *settings, "metrics=[frechet]")
    arguments = [f"checkpoint={run.last}", "n=12", "chunk=6", "accelerator=cpu"]
    done = runs.call("evaluate.py", *runs.outputs(tmp_path / "out", *arguments), cwd=tmp_path / "there")
    runs.succeeded(done)
    assert "note: the data" not in done.stdout
    assert runs.evaluation(tmp_path / "out")["protocol"]["data"]["fingerprint"] == run.checkpoint()["fingerprint"]


def hinted(folder, channels):
    """Pictures with second pictures of ``channels`` channels."""
    folder.mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{i}.png")
        second = rng.integers(0, 256, (8, 8, channels), np.uint8).squeeze()
        Image.fromarray(second).save(folder / f"hint{i}.png")
        rows.append({"file_name": f"{i}.png", "conditioning_image": f"hint{i}.png"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_what_a_model_draws_after_has_to_be_in_the_data(tmp_path):
    small = ["data.channels=1", "data.resolution=8", "data.validation=2", "extractor=fashion", "metrics=[]"]
    grey = hinted(tmp_path / "grey", 1)
    config = runs.composed(
        "data=image_folder",
        f"data.root={grey}",
        *small,
        "data.hint_channels=1",
        "conditioner=image",
        "conditioner.image_channels=1",
        runs.NO_EVALUATION,
    )
    task = instantiate(config["task"], _convert_="all")

    def data(root, **settings):
        found = ImageFolder(root=str(root), channels=1, resolution=8, validation=2, cache_dir=str(tmp_path), **settings)
        found.prepare_data()
        found.setup()
        return found

    check_data(task, data(grey, hint_channels=1))
    with pytest.raises(UserError, match=r"of 1 channel and those of the data have 3; set data.hint_channels=1"):
        check_data(task, data(grey, hint_channels=3))
    plain = data(pictures(tmp_path / "plain", 2, 10, 8))
    with pytest.raises(UserError, match=r"needs a second picture \(hint\) of each image and these data have none"):
        check_data(task, plain)
    task.conditioner = Text(nn.Linear(1, 1), 4, 4)
    with pytest.raises(UserError, match="draws after captions and the data have none"):
        check_data(task, plain)


@pytest.mark.slow
def test_what_pictures_can_be_ends_in_a_number_or_in_one_line(tmp_path):
    """What is written about archives and folders one by one is in tests/evaluate/test_sample_files.py."""
    ten = folder_data(pictures(tmp_path / "data"))
    same = pictures(tmp_path / "same", each=2)
    nine, colour = pictures(tmp_path / "nine", 9), pictures(tmp_path / "colour", channels=3)
    broken = pictures(tmp_path / "broken", each=2)
    (broken / "0" / "x.png").write_text("hello")
    (tmp_path / "empty").mkdir()
    pictures(tmp_path / "one", 1, 1)
    np.savez(tmp_path / "first.npz", images=np.zeros((12, 1, 28, 28), np.uint8))
    (tmp_path / "one.txt").write_text("hello")
    grey, rng = np.zeros((12, 28, 28, 1), np.uint8), np.random.default_rng(0)
    np.savez(tmp_path / "colour.npz", images=np.zeros((12, 28, 28, 3), np.uint8))
    for name, labels in {"far": np.arange(12), "few": np.zeros(5, int), "half": np.full(12, 0.5)}.items():
        np.savez(tmp_path / f"{name}.npz", images=rng.integers(0, 256, grey.shape, np.uint8), labels=labels)
    frechet, accuracy = "metrics=[frechet]", "metrics=[accuracy]"
    table = [
        ([f"images={broken}", frechet], "x.png cannot be read (it is no .png, .jpg, .jpeg, .webp picture)"),
        ([f"images={nine}", accuracy], "accuracy needs the class of every sample"),
        ([f"images={colour}", frechet], "is RGB and the data are grey; set data.channels=3"),
        (
            ["images=colour.npz", frechet],
            "3×28×28 and those of the data 1×28×28; set data.resolution and data.channels",
        ),
        (["images=empty", frechet], "images=empty holds no .png, .jpg, .jpeg, .webp files"),
        (["images=first.npz", frechet], "save uint8 pixels (n, H, W, C), channels last, under the name images"),
        (["images=one", frechet], "frechet is undefined below 2 samples and images=one holds 1; measure more"),
        (["images=nowhere", frechet], "there are no images at nowhere"),
        (["images=one.txt", frechet], "images=one.txt is no folder and no .npz file"),
        (["images=far.npz", accuracy], "label 10 of sample 10 in far.npz is no class of the data, which have 10"),
        (["images=few.npz", accuracy], "the labels of few.npz are int64 of shape (5,) for 12 samples"),
        (["images=half.npz", accuracy], "label 0.5 of sample 0 in half.npz is no class"),
        *(
            ([f"images={same}", frechet, typed], f"{typed.partition('=')[0]} means nothing with images={same}")
            for typed in ("n=20", "repeats=3", "chunk=5", "bits_per_dim.n=4", "sampler=ddim", "guidance=unguided")
        ),
        (
            [f"images={same}", frechet, "profile=x", "precision=16-mixed"],
            "profile, precision mean nothing with",
        ),
    ]
    assert answers(tmp_path, [([*ten, *arguments], words) for arguments, words in table]) == []
    run = runs.succeeded(call(tmp_path, *ten, f"images={same}", "metrics=[frechet,accuracy]"))
    assert f"20 images of {same}; labels: 10 class folders, 0 to 9" in run.stdout
    assert runs.evaluation(tmp_path / "out")["protocol"]["images_labels"] == "10 class folders, 0 to 9"
    assert str(tmp_path / "out" / "evaluation.json") in run.stdout


def test_whole_paths_are_printed_to_a_pipe(tmp_path):
    long = tmp_path / ("a" * 90) / "[b] c"
    pictures(long)
    run = runs.succeeded(call(tmp_path, *folder_data(pictures(tmp_path / "data")), f"images='{long}'", SMALL[-1]))
    assert str(long) in run.stdout.splitlines(), run.stdout


def test_keys_that_are_not_read_are_refused(checkpoint, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").symlink_to(checkpoint)
    given, watched = f"checkpoint={checkpoint}", f"watch={tmp_path}"
    table = [
        ([], "nothing is named to be measured; set checkpoint=<a .ckpt file>, images=<a folder>"),
        ([given, "idle=5"], "idle means nothing with checkpoint=...; leave it out."),
        ([given, watched], "checkpoint means nothing with watch=...; leave it out."),
        ([watched, "bits_per_dim.n=4"], "bits_per_dim.n means nothing with watch=...; leave it out."),
    ]
    assert answers(tmp_path, table) == []


def test_a_setting_that_changes_nothing_is_remarked_once(checkpoint, tmp_path):
    run = runs.succeeded(call(tmp_path, f"checkpoint={checkpoint}", *SMALL, "guidance.scale=1", "guidance.rescale=0.5"))
    assert run.stderr.count("so guidance.rescale changes nothing") == 1
