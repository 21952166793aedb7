from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from oboro.base.errors import UserError
from oboro.data import FashionMNIST, ImageData
from oboro.data.cache import Block, Source
from oboro.data.stream import Shuffled, TrainStream
from oboro.modality import from_uint8, to_uint8

CONF = Path(__file__).parents[2] / "conf"


def test_uint8_conversions_are_exact_inverses():
    every = torch.arange(256, dtype=torch.uint8)
    x = from_uint8(every)
    assert x.dtype == torch.float32 and x[0] == -1 and x[255] == 1
    assert torch.allclose(x.double(), every.double() / 127.5 - 1, atol=1e-7, rtol=0)
    assert torch.equal(to_uint8(x), every)
    assert torch.equal(to_uint8(x.double()), every)
    assert to_uint8(torch.tensor([-7.0, -1.0, 0.0, 1.0, 7.0])).tolist() == [0, 0, 128, 255, 255]


class Recorder(lightning.LightningModule):
    """Trains one number; keeps what every batch held and the mean that validation finds."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches, self.held_out = [], []

    def training_step(self, batch, batch_idx):
        self.batches.append((batch["index"].tolist(), batch["x"].flatten(1)[:, :8].tolist()))
        return (self.weight - batch["x"].mean()) ** 2

    def validation_step(self, batch, batch_idx):
        self.held_out.append((batch["index"].tolist(), batch["x"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, steps, tmp_path, checkpoint=None, **keywords):
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        use_distributed_sampler=False,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **{"limit_val_batches": 0, **keywords},
    )
    module = Recorder()
    trainer.fit(module, data, ckpt_path=checkpoint)
    return trainer, module


@pytest.mark.parametrize(("num_workers", "accumulate"), [(0, 1), (0, 2), (2, 2)])
def test_resumed_training_sees_what_uninterrupted_training_sees(pictures, tmp_path, num_workers, accumulate):
    keywords = {"flip": True, "num_workers": num_workers, "batch_size": 6}
    more = {"accumulate_grad_batches": accumulate}
    whole = fit(pictures(**keywords), 10, tmp_path, **more)[1]
    trainer, first = fit(pictures(**keywords), 5, tmp_path, **more)
    trainer.save_checkpoint(tmp_path / "five.ckpt")
    second = fit(pictures(**keywords), 10, tmp_path, tmp_path / "five.ckpt", **more)[1]
    assert len(first.batches) == len(second.batches) == 5 * accumulate
    assert first.batches + second.batches == whole.batches
    assert torch.equal(second.weight, whole.weight)
    order = TrainStream(Shuffled(10, 0), 6).positions(0, 60)[0].tolist()
    assert [i for indices, _ in whole.batches for i in indices] == order


def test_a_step_cut_in_the_middle_leaves_the_later_steps_whole(pictures, tmp_path):
    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 6:
                trainer.save_checkpoint(tmp_path / "cut.ckpt")

    more = {"accumulate_grad_batches": 2}
    whole = fit(pictures(batch_size=4), 8, tmp_path, callbacks=[Stop()], **more)[1]
    resumed = fit(pictures(batch_size=4), 8, tmp_path, tmp_path / "cut.ckpt", **more)[1]
    assert resumed.batches == whole.batches[7:]


def test_validation_sees_each_held_out_image_once_unmirrored(pictures, tmp_path):
    data = pictures(10, validation=6, batch_size=4, flip=True)
    module = fit(data, 1, tmp_path, limit_val_batches=1.0, num_sanity_val_steps=-1)[1]
    assert [indices for indices, _ in module.held_out] == [[0, 1, 2, 3], [4, 5]]
    assert torch.equal(to_uint8(torch.cat([image for _, image in module.held_out])), data.validation.samples[:])


def test_batches_are_the_images_of_their_indices_mirrored_where_the_stream_says(pictures):
    data = pictures(flip=True, batch_size=10)
    (raw,) = [batch for batch, _ in zip(data.train_dataloader(), range(1), strict=False)]
    expected = TrainStream(Shuffled(10, 0), 10, flip=True).positions(0, 10)[1]
    assert raw["x"].dtype == torch.uint8 and set(raw) == {"x", "index", "flip"}
    batch = data.on_after_batch_transfer(raw, 0)
    assert set(batch) == {"x", "index"} and expected.any() and not expected.all()
    for image, index, flip in zip(to_uint8(batch["x"]), batch["index"], expected, strict=True):
        original = data.train.samples[[int(index)]][0]
        assert torch.equal(image, original.flip(-1) if flip else original)
        assert not torch.equal(original, original.flip(-1))


def test_split_is_a_partition_that_depends_on_the_seed_alone(pictures):
    def split(**keywords):
        data = pictures(10, **keywords)
        return [data.train.samples[:].flatten(1).tolist(), data.validation.samples[:].flatten(1).tolist()]

    everything = pictures(10).train.samples[:].flatten(1).tolist()
    train, held_out = split(validation=3, seed=1)
    assert len(held_out) == 3 and sorted(train + held_out) == sorted(everything)
    assert split(validation=0.3, seed=1, batch_size=7) == [train, held_out]
    assert split(validation=3, seed=2) != [train, held_out]


@pytest.mark.parametrize("validation", [10, 11, 0.97, 1.5, -1])
def test_something_is_left_to_train_on(pictures, validation):
    with pytest.raises(UserError, match="leave at least one to train on; set a number from 0 to 9"):
        pictures(10, validation=validation)


class Grouped(ImageData):
    """Grey pictures of one pixel, as bright as their number; ``groups`` says which belong together."""

    def __init__(self, groups, validation, cache_dir, seed=0):
        super().__init__(channels=1, resolution=1, validation=validation, seed=seed, cache_dir=str(cache_dir))
        self.groups = np.array(groups)

    def source(self):
        images = np.arange(len(self.groups), dtype=np.uint8)[:, None, None, None]
        return Source(repr(self.groups.tolist()), 0, lambda: iter([Block(images, groups=self.groups)]))


def split_of(tmp_path, groups, validation, seed=0):
    data = Grouped(groups, validation, tmp_path, seed)
    data.prepare_data()
    data.setup()
    return [images[:].flatten().tolist() for images in (data.train.samples, data.validation.samples)]


def test_groups_are_trained_on_or_held_out_whole(tmp_path):
    groups = [i % 20 if i < 60 else 20 + i // 7 for i in range(100)]  # of 3, not side by side, and of up to 7
    seen = set()
    for seed in range(5):
        train, held_out = split_of(tmp_path, groups, 0.25, seed)
        assert sorted(train + held_out) == list(range(100)) and train == sorted(train)
        assert not {groups[i] for i in train} & {groups[i] for i in held_out}
        assert 25 - 2 <= len(held_out) <= 25  # less than the smallest group is missing
        seen.add(tuple(held_out))
    assert len(seen) == 5 and split_of(tmp_path, groups, 25, 4)[1] == held_out


def test_a_validation_smaller_than_every_group_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"fewer than any group .*; set data\.validation=2 or more$"):
        split_of(tmp_path, [0, 0, 1, 1, 1], 1)
    assert split_of(tmp_path, [0, 0, 1, 1, 1], 0)[1] == []
    assert split_of(tmp_path, [0, 0, 1, 1, 1], 2)[1] == [0, 1]


@pytest.mark.parametrize("wrong", [{"channels": 2}, {"resolution": [8, 8, 8]}, {"resolution": 0}, {"batch_size": 0}])
def test_impossible_values_name_the_option(tmp_path, wrong):
    with pytest.raises(UserError, match=f"^data.{next(iter(wrong))}=.*; set "):
        FashionMNIST(**wrong)


def test_an_argument_that_no_source_has_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"^FashionMNIST has no argument chanels; it has batch_size, .*channels, "):
        FashionMNIST(part="test", chanels=3)


def test_setup_only_reads(tmp_path):
    data = FashionMNIST(part="test", cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="not in the cache"):
        data.setup()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "data").glob("*.yaml")))
def test_every_option_builds_the_class_it_is_named_after(option, tmp_path):
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(overrides=[f"+data={option}", "+seed=5", f"data.cache_dir={tmp_path}"]).data
        known = {"channels": 1, "resolution": 8, "num_classes": 3}
        config.update({key: known[key] for key, value in config.items_ex(resolve=False) if value == "auto"})
        missing = {key: str(tmp_path) for key in config if OmegaConf.is_missing(config, key)}  # where the data is
        data = instantiate(config, _convert_="all", **missing)
    assert option.replace("_", "").startswith(get_class(config._target_).__name__.lower())
    assert data.seed == 5
    if "resolution" in config:
        assert data.modality.shape == (config.channels, config.resolution, config.resolution)
    assert (data.num_classes, data.batch_size) == (config.num_classes, config.batch_size)


@pytest.mark.parametrize("odd", [-1, 3, 12])
def test_a_label_that_is_no_class_is_refused(odd, tmp_path):
    class Pictures(ImageData):
        def source(self):
            labels = np.array([0, 1, 2, odd])
            return Source("1", 3, lambda: iter([Block(np.zeros((4, 3, 8, 8), np.uint8), labels)]))

    settings = {"resolution": 8, "cache_dir": str(tmp_path), "validation": 0}
    data = Pictures(num_classes=3, **settings)
    data.prepare_data()
    with pytest.raises(UserError, match=f"a sample has the label {odd} and classes are 0 to 2"):
        data.setup()
    ignored = Pictures(num_classes=0, **settings)
    ignored.setup()
    assert ignored.train.labels is None
