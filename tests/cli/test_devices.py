"""Two processes on CPUs: one run, equal weights, other noise, and a metric that does not know how many there are."""

import pytest
import torch

import runs

LEARNING_LOSS = (
    "loss/weighting=learned_log_variance",
    "loss/time=loss_aware",
    "loss.time.bins=2",
    "loss.time.history=3",
)
SETTINGS = ("trainer.max_steps=3", "model.dropout=0.5", *LEARNING_LOSS)
TWO = ("trainer.devices=2", "trainer.strategy=ddp", *SETTINGS)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> runs.Run:
    """Three steps on two processes, in a shell's folder, with the metric along the way."""
    folder = tmp_path_factory.mktemp("pair")
    record = f"+callbacks.recorder={{_target_: recorder.Recorder, folder: {folder / 'record'}}}"
    evaluation = ["callbacks.sample_metrics.every_n_steps=1", "trainer.val_check_interval=3"]
    overrides = runs.toy(*TWO, *evaluation, record)
    run = runs.succeeded(runs.shell("train.py", *overrides, cwd=folder))
    (outputs,) = (folder / "outputs").glob("*/*")  # one folder, whatever the number of processes
    return runs.Run(run.status, run.stdout, run.stderr, outputs)


@pytest.fixture(scope="module")
def ranks(pair) -> list[dict]:
    folder = pair.folder.parents[2] / "record"
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_make_one_run(pair):
    assert pair.stdout.count("step 3/3") == 1 and pair.stdout.count("trained") == 1
    assert "Traceback" not in pair.stderr
    names = {path.name for path in pair.folder.iterdir() if path.suffix != ".log"}
    assert names == {".hydra", ".running", "checkpoints", "metrics.jsonl", "result.json", "samples"}
    steps = [(row["step"], name) for row in pair.rows for name in row if "/" in name or name.startswith("fd")]
    assert len(steps) == len(set(steps)) and (3, "val/loss") in steps
    assert pair.checkpoint()["global_step"] == 3


@pytest.mark.slow
def test_ranks_hold_equal_weights_and_averages(ranks, pair):
    assert runs.equal(ranks[0]["weights"], ranks[1]["weights"])
    assert runs.equal(ranks[0]["averages"], ranks[1]["averages"])
    assert runs.equal(dict(pair.checkpoint()["state_dict"]), dict(ranks[0]["weights"]))


@pytest.mark.slow
def test_a_loss_that_learns_learns_from_both_ranks(ranks):
    """Its history is equal on both, as above, and is of all 3 · 8 losses."""
    weights = ranks[1]["weights"]
    assert int(weights["loss.time.counts"].sum()) == 24 and weights["loss.weighting.head"].abs().max() > 0


@pytest.mark.slow
def test_noise_is_new_on_every_rank_and_at_every_step(ranks):
    times = torch.cat([t for rank in ranks for t in rank["t"]])
    assert len(times) == 3 * 8 and len(times.unique()) == len(times)
    noise = torch.cat([eps for rank in ranks for eps in rank["eps"]]).flatten(1)
    correlation = torch.corrcoef(noise).fill_diagonal_(0)
    assert correlation.abs().max() < 0.25  # 784 numbers each: five standard deviations are 0.18
    kept = torch.stack([k for rank in ranks for k in rank["kept"]]).flatten(1)
    assert len(kept) == 6 and len(kept.unique(dim=0)) == 6


@pytest.mark.slow
def test_ranks_share_the_images_and_the_noise_of_one_device(ranks, tmp_path):
    record = f"+callbacks.recorder={{_target_: recorder.Recorder, folder: {tmp_path}}}"
    runs.train(tmp_path / "run", *SETTINGS, "callbacks=[]", record)
    alone = torch.load(tmp_path / "rank0.pt", weights_only=True)
    for step in range(3):
        for name in ("index", "t", "eps", "kept"):
            assert runs.equal(torch.cat([rank[name][step] for rank in ranks]), alone[name][step]), (step, name)


@pytest.mark.slow
def test_the_metric_is_equal_on_one_device_on_two_and_during_training(pair, tmp_path):
    """Exactly: 20 samples in chunks of 8, so that ranks get unequal shares and the last chunk is padded."""
    protocol = ["n=20", "chunk=8"]
    names = ("fd_fashion_20", "precision_fashion_20", "recall_fashion_20")
    during = {name: pair.logged(name)[3] for name in names}
    one = runs.evaluate(tmp_path / "one", pair.last, *protocol)
    arguments = [f"checkpoint={pair.last}", "accelerator=cpu", "devices=2", *protocol]
    (tmp_path / "two").mkdir()
    runs.succeeded(runs.shell("evaluate.py", *runs.outputs(tmp_path / "two", *arguments), cwd=tmp_path))
    two = runs.evaluation(tmp_path / "two")
    assert one["values"] == two["values"] == during
    assert one["protocol"] == two["protocol"] and one["step"] == two["step"] == 3
    other = runs.evaluate(tmp_path / "other", pair.last, *protocol, "seed=1")
    assert other["values"] != one["values"]


@pytest.mark.slow
def test_ranks_hold_equal_weights_of_a_network_that_writes_to_itself(tmp_path):
    """EDM2 normalises its weights in every forward pass of training, and rank 0 looks ahead at what measuring costs."""
    record = f"+callbacks.recorder={{_target_: recorder.Recorder, folder: {tmp_path / 'record'}}}"
    two = ["trainer.devices=2", "trainer.strategy=ddp", "model=edm2_unet_tiny", "callbacks=[sample_metrics]"]
    runs.succeeded(runs.shell("train.py", *runs.toy(*two, record), cwd=tmp_path))
    first, second = (torch.load(tmp_path / "record" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert runs.equal(first["weights"], second["weights"]) and runs.equal(first["averages"], second["averages"])
