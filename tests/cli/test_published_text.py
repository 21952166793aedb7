"""train.py on texts as published encoders read them, then sample.py from the checkpoint alone."""

import json
import shutil

import pytest

import runs
from interop.tiny import open_clip, t5, t5_tokenizer


def t5_folder(folder):
    t5().save_pretrained(folder)
    t5_tokenizer(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "make", "settings"),
    [
        ("text_t5", t5_folder, ["conditioner.encoder.length=12"]),
        ("text_t5", t5_folder, ["conditioner.pooled_dim=0"]),
        ("text_open_clip", open_clip, ["conditioner.encoder.skip=1"]),
    ],
)
def test_the_checkpoint_holds_the_encoder(option, make, settings, tmp_path):
    make(tmp_path / "encoder")
    callbacks = "callbacks=[text_cache,checkpoints]"
    chosen = ["data=fashion_captions_10k", f"conditioner={option}", *settings, callbacks]
    run = runs.train(tmp_path / "run", *chosen, f"conditioner.encoder.path={tmp_path / 'encoder'}")
    shutil.rmtree(tmp_path / "encoder")
    drawn = runs.sample(tmp_path / "drawn", run.last, "n=2", 'prompt=["a dog","the cat"]', "guidance.scale=2")
    lines = (drawn.folder / "images/metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a dog", "the cat"]
    state = run.checkpoint()["state_dict"]
    pooled = any(name.startswith("denoiser.network.text.pooled.") for name in state)
    assert pooled == ("conditioner.pooled_dim=0" not in settings)


def test_a_name_that_is_no_folder_is_said(tmp_path):
    chosen = ["data=fashion_captions_10k", "conditioner=text_t5", "conditioner.encoder.path=/no/such/t5"]
    run = runs.call("train.py", *runs.toy(*chosen, runs.NO_EVALUATION), cwd=tmp_path)
    said = run.stderr.replace("\n", " ")
    assert run.status == 1 and "error: there is no folder /no/such/t5; set conditioner.encoder.path" in said
