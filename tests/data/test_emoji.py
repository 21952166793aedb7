import hashlib
import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from oboro.base.errors import UserError
from oboro.data import Emoji, emoji
from oboro.data.emoji import PACKAGES, TEMPLATES, TONES, caption, together

# --- tiny packages laid out as those of emoji-datasource


def entry(name, code, order, short_names=(), tones=(), category="Food & Drink", subcategory="food-fruit"):
    return {
        "name": name,
        "unified": code,
        "image": f"{code.lower()}.png",
        "short_names": list(short_names),
        "category": category,
        "subcategory": subcategory,
        "sort_order": order,
        "skin_variations": {t: {"image": f"{code.lower()}-{t.lower()}.png"} for t in tones},
    }


PERSON = {"category": "People & Body", "subcategory": "person-role"}
TABLE = [
    entry("RED APPLE", "1F34E", 2, ["apple"]),
    entry("WAVING HAND", "1F44B", 1, ["wave"], [*TONES, "1F3FB-1F3FF"], **PERSON),
    entry("Norway Flag", "1F1F3", 3, ["flag-no"], category="Flags", subcategory="country-flag"),
    entry("Svalbard Flag", "1F1F8", 4, ["flag-sj"], category="Flags", subcategory="country-flag"),
]


def images(table=TABLE):
    """The file names in the order of the data."""
    for item in sorted(table, key=lambda e: e["sort_order"]):
        yield item["image"]
        yield from (v["image"] for v in item["skin_variations"].values())


def png(shade):
    file = io.BytesIO()
    picture = Image.new("RGBA", (64, 64), (shade, 0, 0, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    picture.save(file, "PNG")
    return file.getvalue()


def write(folder):
    """The tarballs of both vendors in ``folder``; returns ``PACKAGES`` with their digests. Both flags look alike."""
    packages, shade = {}, 0
    folder.mkdir(parents=True, exist_ok=True)
    for vendor, package in PACKAGES.items():
        members = {"package/emoji.json": json.dumps(TABLE).encode(), f"package/img/{vendor}/sheets/64.png": b"?"}
        for name in images():
            shade += name != "1f1f8.png"
            members[f"package/img/{vendor}/64/{name}"] = png(shade)
        path = folder / package.archive
        with tarfile.open(path, "w:gz") as tar:
            for name, content in sorted(members.items(), reverse=True):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        packages[vendor] = replace(package, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    return packages


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Two small packages in a folder; a function that loads them."""
    packages = write(tmp_path / "root")
    monkeypatch.setattr(emoji, "PACKAGES", packages)

    def load(**keywords):
        keywords = {"root": str(tmp_path / "root"), "cache_dir": str(tmp_path / "cache"), "validation": 0, **keywords}
        data = Emoji(**keywords)
        data.prepare_data()
        data.setup()
        return data

    return load


def test_pictures_come_in_the_order_of_the_table_on_white_with_their_captions(toy):
    data = toy()
    pixels, names = data.train.samples[:].numpy(), list(images())
    assert pixels.shape == (2 * len(names), 3, 64, 64)
    shades = [*range(1, 10), 9 + 0, *range(10, 19), 18]
    assert pixels[:, 0, 32, 32].tolist() == shades and not pixels[:, 1:, 32, 32].any()
    assert (pixels[:, :, 0, 0] == 255).all()
    assert [("twitter" in c, "google" in c) for c in data.train.captions] == [(True, False)] * 10 + [(False, True)] * 10
    assert all("waving hand, wave" in c for c in data.train.captions[:7]) and "red apple" in data.train.captions[7]
    assert "medium-light skin" in data.train.captions[2] and "light and dark skin" in data.train.captions[6]
    assert "norway flag" in data.train.captions[18] and "no," not in data.train.captions[18]
    assert len(set(data.train.captions)) == 20


def test_an_emoji_is_held_out_in_all_tones_and_of_both_vendors(toy):
    names = [*images(), *images()]
    kinds = ["flag" if name.startswith("1f1f") else name.split("-")[0].split(".")[0] for name in names]
    assert kinds.count("1f44b") == 14 and kinds.count("flag") == 4  # two flags in one file of each vendor
    sizes = set()
    for seed in range(8):
        data = toy(validation=6, seed=seed)
        everything = dict(zip(toy().train.captions, kinds, strict=True))
        held_out = {everything[c] for c in data.validation.captions}
        assert not held_out & {everything[c] for c in data.train.captions}
        sizes.add(tuple(sorted(held_out)))
    assert sizes == {("1f34e", "flag")}  # fourteen hands never fit into six


def test_the_form_of_a_caption_is_fixed_for_each_picture_and_all_forms_occur():
    codes = [f"{i:X}" for i in range(400)]
    made = [caption(entry("RED APPLE", code, 0, ["apple"]), "", "google") for code in codes]
    assert made == [caption(entry("RED APPLE", code, 0, ["apple"]), "", "google") for code in codes]
    words = {"name": "red apple", "kind": "food fruit", "category": "food and drink", "vendor": "google"}
    forms = [template.format(**words) for template in TEMPLATES]
    counts = np.array([made.count(form) for form in forms])
    assert counts.sum() == 400 and ((counts - 80) ** 2 / 80).sum() < 23.5  # 4 degrees of freedom: 1e-4


@pytest.mark.parametrize(
    ("name", "short_names", "tones", "expected"),
    [
        ("RED APPLE", ["apple"], "", "red apple"),
        (
            "WHITE RIGHT POINTING BACKHAND INDEX",
            ["point_right"],
            "",
            "white right pointing backhand index, point right",
        ),
        ("THUMBS UP SIGN", ["+1", "thumbsup"], "1F3FD", "thumbs up sign, thumbsup with medium skin"),
        ("HANDSHAKE", ["handshake"], "1F3FB-1F3FB", "handshake with light skin"),
        ("Åland Islands Flag", ["flag-ax"], "", "åland islands flag"),
    ],
)
def test_names_are_read_as_a_person_would(name, short_names, tones, expected):
    made = [caption(entry(name, f"{code:X}", 0, short_names), tones, "twitter") for code in range(30)]
    assert f"{expected}, in the style of twitter" in made and f"an emoji of {expected} in the style of twitter" in made


def test_rows_that_share_a_key_through_others_are_together():
    rows = [("a", "1"), ("b", "2"), ("c", "3"), ("a", "4"), ("d", "2"), ("c", "4"), ("e", "5")]
    assert together(rows) == [0, 1, 0, 0, 1, 0, 2]


def test_the_key_changes_with_the_wording_and_the_packages(monkeypatch):
    keys = [Emoji().source().key]
    monkeypatch.setattr(emoji, "TEMPLATES", TEMPLATES[:1])
    keys.append(Emoji().source().key)
    monkeypatch.setattr(emoji, "PACKAGES", {v: replace(p, sha256="0") for v, p in emoji.PACKAGES.items()})
    keys.append(Emoji().source().key)
    assert len(set(keys)) == 3


def test_a_missing_or_changed_tarball_names_the_command_that_gets_it(toy, tmp_path):
    archive = tmp_path / "root" / "emoji-datasource-google-16.0.0.tgz"
    archive.write_bytes(archive.read_bytes() + b"!")
    with pytest.raises(UserError, match=r"not the published .*npm pack emoji-datasource-google@16\.0\.0 there$"):
        toy()
    archive.unlink()
    with pytest.raises(UserError, match=r"does not exist; run npm pack emoji-datasource-google@16\.0\.0 in"):
        toy()


def test_a_tarball_that_is_cut_is_a_user_error(toy, tmp_path, monkeypatch):
    archive = tmp_path / "root" / "emoji-datasource-google-16.0.0.tgz"
    archive.write_bytes(archive.read_bytes()[:-40])
    monkeypatch.setattr("oboro.data.npm.sha256_of", lambda path: next(digests))
    digests = iter(package.sha256 for package in emoji.PACKAGES.values())
    with pytest.raises(UserError, match=r"cannot read .*delete it to have it fetched again"):
        toy()
