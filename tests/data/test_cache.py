import json
import os
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from oboro.base.errors import UserError
from oboro.base.temporary import beside, held
from oboro.data.cache import LOCK, Block, SampleArray, build, default_folder, open_cached

SHAPE = (1, 4, 4)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)
GROUPS = np.arange(12) // 4 - 1


def blocks():
    for start in range(0, 12, 5):
        part = slice(start, start + 5)
        yield Block(IMAGES[part], np.arange(12)[part] % 3, [f"図 {i}" for i in range(12)][part], GROUPS[part])


def leftovers(folder):
    return [p.name for p in folder.parent.iterdir() if p.name not in (folder.name, LOCK)]


def test_what_is_read_is_what_was_decoded(tmp_path):
    cached = build(tmp_path / "a", blocks(), SHAPE)
    assert cached.shape == (12, *SHAPE)
    assert np.array_equal(cached.labels, np.arange(12) % 3) and cached.labels.dtype == np.int64
    assert cached.captions == [f"図 {i}" for i in range(12)] and np.array_equal(cached.groups, GROUPS)
    assert np.array_equal(np.load(tmp_path / "a" / "samples.npy"), IMAGES)
    assert leftovers(tmp_path / "a") == []


def test_array_reads_its_rows(tmp_path):
    array = SampleArray(build(tmp_path / "a", blocks(), SHAPE), np.array([9, 2, 5]))
    assert len(array) == 3 and array.shape == (3, *SHAPE)
    for indices in (torch.tensor([2, 0]), [2, 0], slice(1, 3), np.array([1])):
        rows = np.array([9, 2, 5])[indices.numpy() if isinstance(indices, torch.Tensor) else indices]
        assert torch.equal(array[indices], torch.from_numpy(IMAGES[rows]))
    copy = pickle.loads(pickle.dumps(array))
    assert torch.equal(copy[[0, 1, 2]], array[[0, 1, 2]])
    big = SampleArray(build(tmp_path / "b", iter([Block(np.zeros((4, 1, 256, 256), np.uint8))])), np.arange(4))
    assert big[[0]].sum() == 0 and len(pickle.dumps(big)) < 10_000  # what is mapped stays out


def test_a_batch_can_be_changed_without_changing_the_data(tmp_path):
    array = SampleArray(build(tmp_path / "a", blocks(), SHAPE), np.arange(12))
    array[[0]].zero_()
    array[slice(0, 2)].zero_()
    assert torch.equal(array[[0, 1]], torch.from_numpy(IMAGES[:2]))


def test_fingerprint_follows_the_content_alone(tmp_path):
    one = build(tmp_path / "a", blocks(), SHAPE).fingerprint
    whole = Block(IMAGES, np.arange(12) % 3, [f"図 {i}" for i in range(12)], GROUPS)
    assert one == build(tmp_path / "b", iter([whole]), SHAPE).fingerprint
    others = [
        replace(whole, samples=IMAGES[::-1]),
        replace(whole, labels=np.arange(12) % 4),
        replace(whole, captions=[f"図{i}" for i in range(12)]),
        replace(whole, groups=GROUPS + 1),
        replace(whole, groups=None),
        replace(whole, hints={"hint": IMAGES}),
        replace(whole, hints={"hint": 255 - IMAGES}),
        replace(whole, samples=IMAGES.astype(np.float32)),
        Block(IMAGES, np.arange(12) % 3),
        Block(IMAGES, groups=np.arange(12) % 3),
        Block(IMAGES),
    ]
    found = {build(tmp_path / f"c{i}", iter([block]), SHAPE).fingerprint for i, block in enumerate(others)}
    assert len(found | {one}) == 12
    cached = open_cached(tmp_path / "a")
    assert SampleArray(cached, np.arange(5)).fingerprint != SampleArray(cached, np.arange(1, 6)).fingerprint


def test_folders_of_the_first_version_stay_valid(tmp_path):
    """It called the array images, and knew no other type."""
    before = build(tmp_path / "a", blocks(), SHAPE)
    (tmp_path / "a" / "samples.npy").rename(tmp_path / "a" / "images.npy")
    meta = json.loads((tmp_path / "a" / "meta.json").read_text())
    (tmp_path / "a" / "meta.json").write_text(
        json.dumps({k: v for k, v in meta.items() if k not in ("dtype", "hints", "checksums", "checksum")})
    )
    after = open_cached(tmp_path / "a")
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(SampleArray(after, np.array([9, 2]))[:], IMAGES[[9, 2]])


def truncate(folder):
    os.truncate(folder / "samples.npy", 200)


def shorten_labels(folder):
    np.save(folder / "labels.npy", np.arange(3))


def shorten_groups(folder):
    np.save(folder / "groups.npy", np.arange(3))


def other_shape(folder):
    np.save(folder / "samples.npy", IMAGES.reshape(12, 1, 2, 8))


def half_meta(folder):
    (folder / "meta.json").write_text('{"shape": [12')


def no_labels(folder):
    (folder / "labels.npy").unlink()


def fewer_captions(folder):
    (folder / "captions.json").write_text(json.dumps(["one"]))


DAMAGES = [truncate, shorten_labels, shorten_groups, other_shape, half_meta, no_labels, fewer_captions]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_noticed_and_built_again(tmp_path, damage):
    folder = tmp_path / "a"
    build(folder, blocks(), SHAPE)
    damage(folder)
    assert open_cached(folder) is None
    assert build(folder, blocks(), SHAPE).shape == (12, *SHAPE)
    assert np.array_equal(np.load(folder / "samples.npy"), IMAGES)
    assert leftovers(folder) == []


@pytest.mark.parametrize("name", ["samples.npy", "hints.npy", "labels.npy", "groups.npy", "captions.json", "meta.json"])
def test_a_flipped_bit_anywhere_is_noticed(tmp_path, name):
    whole = Block(IMAGES, np.arange(12) % 3, [f"図 {i}" for i in range(12)], GROUPS, {"hint": IMAGES})
    folder = tmp_path / "a"
    build(folder, iter([whole]), SHAPE)
    content = (folder / name).read_bytes()
    for place in {0, 9, 60, 80, len(content) // 2, len(content) - 9, len(content) - 1}:
        (folder / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert open_cached(folder) is None, place
        (folder / f"{name}.damaged").unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    assert open_cached(folder) is not None


def test_a_row_of_a_large_cache_that_is_damaged_ends_the_run_and_is_decoded_anew_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("oboro.base.checksums.AT_ONCE", 0)
    folder = tmp_path / "a"
    array = SampleArray(build(folder, blocks(), SHAPE), np.array([9, 2, 5]))
    with (folder / "samples.npy").open("r+b") as file:
        file.seek(128 + 2 * 16 + 3)
        file.write(bytes([IMAGES[2].reshape(-1)[3] ^ 64]))
    assert open_cached(folder) is not None  # nobody has read it yet
    assert torch.equal(array[[0, 2]], torch.from_numpy(IMAGES[[9, 5]]))
    with pytest.raises(
        UserError, match=r"samples\.npy was changed .*\(row 2 is not what was written\); start again with"
    ):
        array[[0, 1]]
    assert open_cached(folder) is None
    assert torch.equal(SampleArray(build(folder, blocks(), SHAPE), np.array([2]))[0], torch.from_numpy(IMAGES[2]))


def test_a_cache_without_checksums_is_read_unchecked(tmp_path):
    """As earlier versions wrote it: the file ends with its array."""
    folder = tmp_path / "a"
    build(folder, blocks(), SHAPE)
    np.save(folder / "samples.npy", IMAGES)
    assert torch.equal(SampleArray(open_cached(folder), np.arange(12))[:], torch.from_numpy(IMAGES))


def test_what_a_killed_process_was_writing_goes_unless_somebody_holds_its_lock(tmp_path):
    folder, notes = tmp_path / "a", tmp_path / "notes.tmp"
    killed, going_on = beside(folder), beside(folder)
    for path in (killed, going_on):
        path.mkdir()
        path.with_name(f"{path.name}.lock").touch()
    notes.touch()
    with held(going_on):
        build(folder, blocks(), SHAPE)
        assert going_on.is_dir() and not killed.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a", "notes.tmp"]


def test_a_cache_that_was_written_before_there_were_groups_is_still_read(tmp_path):
    build(tmp_path / "a", iter([Block(IMAGES)]), SHAPE)
    meta = json.loads((tmp_path / "a" / "meta.json").read_text())
    del meta["groups"], meta["checksum"]
    (tmp_path / "a" / "meta.json").write_text(json.dumps(meta))
    assert open_cached(tmp_path / "a").groups is None


def test_failure_while_decoding_leaves_nothing(tmp_path):
    def broken():
        yield Block(IMAGES)
        raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        build(tmp_path / "cache" / "a", broken(), SHAPE)
    assert leftovers(tmp_path / "cache" / "a") == []


@pytest.mark.parametrize("damaged", [False, True])
def test_processes_that_race_agree(tmp_path, damaged):
    folder = tmp_path / "a"
    if damaged:
        build(folder, blocks(), SHAPE)
        half_meta(folder)
    together, results = threading.Barrier(4, timeout=60), []

    def slow():
        yield from blocks()
        together.wait()  # all four have decoded before the first one is done

    threads = [threading.Thread(target=lambda: results.append(build(folder, slow(), SHAPE))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len({cached.fingerprint for cached in results}) == 1
    assert leftovers(folder) == []


@pytest.mark.slow
def test_what_is_being_written_is_not_taken_for_abandoned(tmp_path, capsys):
    """Builds that begin and end all the time, each of which looks for what is abandoned: none takes another's."""
    failures = []

    def many(k):
        for i in range(400):
            try:
                build(tmp_path / f"{i}-{k}", blocks(), SHAPE)
            except UserError as error:
                failures.append(str(error))

    threads = [threading.Thread(target=many, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(list(tmp_path.glob("*-*"))) == 2400
    assert "is removed" not in "".join(capsys.readouterr())


def test_unwritable_cache_is_a_user_error_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"set data\.cache_dir="):
        build(tmp_path / "file" / "a", blocks(), SHAPE)


def test_default_folder_follows_the_xdg_convention(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "oboro"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "oboro"
