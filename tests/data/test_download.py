import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from oboro.base.errors import UserError
from oboro.data.download import download

CONTENT = b"a published archive " * 50_000
WANTED = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest(), "remedy": "put it there"}


@pytest.fixture
def server(monkeypatch):
    """The address of a server of ``pages`` and the list of its requests."""
    pages = {"/good": CONTENT, "/changed": CONTENT[:-1] + b"!", "/short": CONTENT[:-1], "/long": CONTENT + b"!"}
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            if self.path not in pages:
                self.send_error(404)
                return
            self.send_response(200)
            if self.path != "/long":
                self.send_header("Content-Length", str(len(pages[self.path])))
            self.end_headers()
            self.wfile.write(pages[self.path])

        def log_message(self, *arguments):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", requests
        running.shutdown()
        thread.join()


def test_verified_content_arrives_and_is_kept(tmp_path, server):
    address, requests = server
    target = tmp_path / "new" / "archive"
    for _ in range(2):
        download([f"{address}/good"], target, **WANTED)
    assert target.read_bytes() == CONTENT and requests == ["/good"]
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("page", "reason"),
    [("changed", "wrong checksum"), ("short", "wrong checksum"), ("long", "larger than"), ("none", "404")],
)
def test_anything_else_is_refused_and_leaves_nothing(tmp_path, server, page, reason):
    with pytest.raises(UserError, match=f"{reason}.*; put it there$"):
        download([f"{server[0]}/{page}"], tmp_path / "archive", **WANTED)
    assert list(tmp_path.iterdir()) == []


def test_mirrors_are_tried_in_order_and_a_damaged_file_is_replaced(tmp_path, server):
    address, requests = server
    target = tmp_path / "archive"
    target.write_bytes(CONTENT[:100])
    download([f"{address}/none", f"{address}/changed", f"{address}/good"], target, **WANTED)
    assert target.read_bytes() == CONTENT and requests == ["/none", "/changed", "/good"]


def test_offline_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match=r"refused.*; put it there$"):
        download(["http://127.0.0.1:9/archive"], tmp_path / "archive", **WANTED)
