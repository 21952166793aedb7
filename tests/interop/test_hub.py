"""Names on the Hugging Face hub stand for folders in its cache, and no network is asked where these are complete."""

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from interop.tiny import clip, t5, t5_tokenizer, tokenizer
from oboro.base.errors import UserError
from oboro.conditioner import PublishedCLIP, PublishedOpenCLIP, PublishedT5

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and a hub whose address answers at once that nobody is there."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def cached(cache, name, folder):
    """Put a folder into the cache as the model ``name``."""
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    return shutil.copytree(folder, place / "snapshots" / ("0" * 40))


@pytest.fixture
def flan(tmp_path):
    t5().save_pretrained(tmp_path / "flan")
    t5_tokenizer(tmp_path / "flan")
    return tmp_path / "flan"


def same(a, b):
    (config, state), (expected, wanted) = a.load(), b.load()
    return config == expected and all(torch.equal(state[name], wanted[name]) for name in state | wanted)


def test_a_name_is_the_folder_in_the_cache(cache, flan):
    cached(cache, "someone/flan", flan)
    assert same(PublishedT5("someone/flan"), PublishedT5(str(flan)))
    assert PublishedT5("someone/flan").config() == PublishedT5(str(flan)).config()


def test_a_name_may_be_that_of_a_pipeline(cache, tmp_path):
    clip().save_pretrained(tmp_path / "sd/text_encoder")
    tokenizer(tmp_path / "sd/tokenizer")
    cached(cache, "someone/sd", tmp_path / "sd")
    assert same(PublishedCLIP("someone/sd"), PublishedCLIP(str(tmp_path / "sd")))


def test_shards_are_complete_or_fetched(cache, flan):
    (flan / "model.safetensors").unlink()
    t5().save_pretrained(flan, max_shard_size="2KB")
    folder = cached(cache, "someone/flan", flan)
    assert same(PublishedT5("someone/flan"), PublishedT5(str(flan)))
    names = json.loads((flan / "model.safetensors.index.json").read_text())["weight_map"].values()
    (folder / max(names)).unlink()
    with pytest.raises(UserError, match="of someone/flan on the Hugging Face hub there is not all of"):
        PublishedT5("someone/flan").load()


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_cache_that_lacks_a_file_asks_the_hub(lost, cache, flan):
    """As after another program fetched the weights alone."""
    (cached(cache, "someone/flan", flan) / lost).unlink()
    with pytest.raises(UserError, match=r"there is not all of.*connect to the network and run again"):
        PublishedT5("someone/flan").load()


@pytest.mark.parametrize("part", [PublishedCLIP, PublishedOpenCLIP, PublishedT5])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("someone/no-such-model", "connect to the network and run again"),
        ("/no/such/folder", "there is no folder /no/such/folder"),
        ("~/no/such/folder", "there is no folder ~/no/such/folder"),
    ],
)
def test_a_name_that_is_neither_says_what_to_do(path, said, part, cache):
    with pytest.raises(UserError, match=said) as error:
        part(path).load()
    message = str(error.value)
    assert "set conditioner.encoder.path to a folder" in message and "\n" not in message


class Hub(BaseHTTPRequestHandler):
    """The hub, as far as it lists and sends the files of ``folder`` under the name someone/flan."""

    folder: Path
    sent: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.answer(b"", head=True)

    def do_GET(self):
        self.answer(b"")

    def answer(self, body, head=False):
        path = self.path.partition("?")[0]
        files = {p.name: p for p in self.folder.iterdir()}
        if path.startswith("/api/models/someone/flan/tree"):
            rows = [{"type": "file", "path": n, "size": p.stat().st_size, "oid": "1" * 40} for n, p in files.items()]
            body = json.dumps(rows).encode()
        elif path.startswith("/api/models/someone/flan"):
            found = {"id": "someone/flan", "sha": "0" * 40, "siblings": [{"rfilename": name} for name in files]}
            body = json.dumps(found).encode()
        elif path.rpartition("/")[2] in files:
            name = path.rpartition("/")[2]
            body = files[name].read_bytes()
            if not head:
                self.sent.append(name)
        else:
            self.send_error(404)
            return
        self.send_response(200)
        digest = hashlib.sha1(path.encode()).hexdigest()
        for key, value in (("Content-Length", len(body)), ("ETag", f'"{digest}"'), ("X-Repo-Commit", "0" * 40)):
            self.send_header(key, str(value))
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("sharded", [False, True])
def test_of_several_formats_one_is_fetched_and_once(sharded, cache, flan, monkeypatch):
    if sharded:
        (flan / "model.safetensors").unlink()
        t5().save_pretrained(flan, max_shard_size="2KB")
    torch.save(t5().state_dict(), flan / "pytorch_model.bin")
    (flan / "README.md").write_text("a model")
    monkeypatch.setattr(Hub, "folder", flan, raising=False)
    Hub.sent.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(hub.constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        assert same(PublishedT5("someone/flan"), PublishedT5(str(flan)))
        server.shutdown()
    weights = [path.name for path in flan.glob("model*")]
    assert len(weights) > 1 or not sharded
    assert sorted(Hub.sent) == sorted(["config.json", "tokenizer.json", "tokenizer_config.json", *weights])
    assert same(PublishedT5("someone/flan"), PublishedT5(str(flan)))  # nobody answers any more
