"""`vertebra data download coco` from a server of our own: what it leaves is what `--data coco` reads."""

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vertebra.tools.config import read_data
from vertebra.tools.data import archives
from vertebra.tools.data.archives import Archive, Source
from vertebra.tools.sources import open_split

Command = Callable[..., Any]


class Mirror(SimpleHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Mirror]]:
    """A server at `mirror.url` with the generated set in archives like COCO's, which the table then describes."""
    there: dict[str, Archive] = {}
    for name in ("train", "val", "annotations"):
        content = io.BytesIO()
        contents = set()
        with zipfile.ZipFile(content, "w") as archive:
            for path in sorted((shapes / name).iterdir()):
                split = {"annotations": f"annotations/instances_{path.stem}2017.json"}
                below = split.get(name, f"{name}2017/{path.name}")
                archive.write(path, below)
                contents.add(below if name == "annotations" else f"{name}2017")
        path = tmp_path / "served" / "zips" / f"{name}2017.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.getvalue())
        size, md5 = path.stat().st_size, hashlib.md5(content.getvalue()).hexdigest()
        there[name] = Archive(f"zips/{path.name}", size, md5, tuple(sorted(contents)), size)
    asked: list[str] = []
    handler = type("Here", (Mirror,), {"asked": asked, "__init__": _serving(tmp_path / "served")})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setitem(archives.SOURCES, "coco", Source(handler.url, "data/coco", tuple(there), there))
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def _serving(folder: Path) -> Callable[..., None]:
    def start(self: Mirror, *arguments: Any) -> None:
        SimpleHTTPRequestHandler.__init__(self, *arguments, directory=str(folder))

    return start


def test_what_it_leaves_trains(cli: Command, mirror: Any, tmp_path: Path, shapes: Path) -> None:
    root = tmp_path / "coco"
    done = cli("data", "download", "coco", "--root", root, "--base-url", f"{mirror.url}/")
    assert done.status == 0, done.err
    assert done.out.splitlines() == [
        *(
            line
            for name in ("train", "val", "annotations")
            for line in (
                f"{name}2017.zip: 0.00 GB from {mirror.url}/zips/{name}2017.zip",
                f"{name}2017.zip is unpacked",
            )
        ),
        f"{root} holds train, val, annotations of coco; --data coco --data-root {root} takes them",
    ]
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "train2017", "val2017"]
    for split, count in (("train", 8), ("val", 4)):
        data = open_split(read_data("coco", str(root)), split, ("boxes", "labels"))
        assert len(data.images) == count
        assert data.images[0].read().shape == (64, 64, 3)
    asked = len(mirror.asked)
    assert cli("data", "download", "coco", "--root", root).status == 0
    assert len(mirror.asked) == asked == 3


def test_chosen_parts_go_where_the_settings_look(
    cli: Command, mirror: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("data", "download", "coco", "--parts", "annotations, val").status == 0
    assert sorted(path.name for path in (tmp_path / "data" / "coco").iterdir()) == ["annotations", "val2017"]
    assert json.loads((tmp_path / "data/coco/annotations/instances_val2017.json").read_text())["images"]


def refused(done: Any, *parts: str) -> None:
    assert done.status == 2, (done.out, done.err)
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_what_is_refused(cli: Command, mirror: Any, tmp_path: Path) -> None:
    root = tmp_path / "coco"
    refused(cli("data", "download", "cocoo"), "unknown data set to download 'cocoo'", "Did you mean 'coco'?")
    refused(cli("data", "download", "coco", "--root", root, "--parts", "trian"), "unknown part 'trian'", "'train'")
    refused(cli("data", "download", "coco", "--root", root, "--base-url", "ftp://x"), "begins with http:// or https://")
    refused(cli("data", "download", "coco", "--root", root, "--base-url", f"{mirror.url}/no"), "answers 404")
    (tmp_path / "file").touch()
    refused(cli("data", "download", "coco", "--root", tmp_path / "file"), "cannot write")
    assert not root.exists() or list(root.iterdir()) == []


def test_ctrl_c(cli: Command, mirror: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "fetch", stop)
    done = cli("data", "download", "coco", "--root", tmp_path / "coco")
    assert done.status == 130
    assert done.err == "stopped; what has come of train2017.zip is kept, the same command goes on\n"
