"""Downloads from a server of our own, which cuts, forgets, refuses and changes its mind."""

import fcntl
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import vertebra
from vertebra.tools.data.download import download

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)


@dataclass
class Site:
    """What a server has, and how it answers: first with `refusals`; each answer in turn is cut after `cuts` bytes."""

    content: bytes = CONTENT
    cuts: list[int] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    ranges: bool = True
    if_range: bool = True
    tag: str | None = '"one"'
    length: bool = True
    change_after: tuple[int, bytes, str | None] | None = None  # from that answer on, other content and tag
    asked: list[str | None] = field(default_factory=list)  # the ranges that were asked for
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        asked = self.headers.get("Range")
        if site.change_after is not None and len(site.asked) >= site.change_after[0]:
            _, site.content, site.tag = site.change_after
        site.asked.append(asked)
        if site.refusals:
            self.send_error(site.refusals.pop(0))
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and site.ranges else 0
        if site.if_range and self.headers.get("If-Range", site.tag) != site.tag:
            start = 0
        if start >= len(site.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        if site.tag is not None:
            self.send_header("ETag", site.tag)
        if site.length:
            self.send_header("Content-Length", str(len(site.content) - start))
        self.end_headers()
        stop = start + site.cuts.pop(0) if site.cuts else None
        self.wfile.write(site.content[start:stop])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    """A server at `site.url` which answers as the site says."""
    site = Site()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_address[1]}/file.zip"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def get(site: Site, tmp_path: Path) -> Callable[[], Path]:
    """Download the file that is expected of the site, with three attempts in a row at most."""

    def call() -> Path:
        target = tmp_path / "file.zip"
        md5 = hashlib.md5(CONTENT).hexdigest()
        download(site.url, target, size=len(CONTENT), md5=md5, waits=(0, 0))
        return target

    return call


def check_whole(target: Path) -> None:
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_whole_file(site: Site, get: Callable[[], Path]) -> None:
    check_whole(get())
    assert site.asked == [None]


def test_it_goes_on_where_it_was_cut(site: Site, get: Callable[[], Path]) -> None:
    site.cuts = [100_000, 1, 150_000]
    check_whole(get())
    assert site.asked == [None, "bytes=100000-", "bytes=100001-", "bytes=250001-"]


def test_as_many_cuts_as_there_are_as_long_as_bytes_come(site: Site, get: Callable[[], Path]) -> None:
    site.cuts = [20_000] * 14
    check_whole(get())


def test_a_later_start_goes_on(site: Site, get: Callable[[], Path], tmp_path: Path) -> None:
    site.cuts = [100_000, 0, 0, 0]
    with pytest.raises(
        vertebra.InputError,
        match=r"^http://.*file\.zip: the connection was cut, 3 times without a byte; 100,000 of 300,000 bytes are in "
        r".*file\.zip\.part, from which the same command goes on$",
    ):
        get()
    assert (tmp_path / "file.zip.part").read_bytes() == CONTENT[:100_000]
    assert not (tmp_path / "file.zip").exists()
    site.asked.clear()
    check_whole(get())
    assert site.asked == ["bytes=100000-"]


def test_a_server_without_ranges_starts_again(site: Site, get: Callable[[], Path]) -> None:
    site.ranges, site.cuts = False, [100_000, 200_000]
    check_whole(get())
    assert site.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_a_server_without_ranges_that_always_cuts_is_given_up(site: Site, get: Callable[[], Path]) -> None:
    site.ranges, site.cuts = False, [100_000] * 9
    with pytest.raises(vertebra.InputError, match="the connection was cut, 3 times without a byte"):
        get()


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_between_attempts_is_started_again(
    site: Site, get: Callable[[], Path], if_range: bool
) -> None:
    """With If-Range the server sees it; one that does not know that header still shows another tag."""
    site.content, site.cuts, site.if_range = OTHER, [100_000], if_range
    site.change_after = (1, CONTENT, '"two"')
    check_whole(get())
    assert site.asked == [None, "bytes=100000-", *([] if if_range else [None])]


def test_a_file_that_changed_without_a_tag_shows_in_its_checksum(site: Site, get: Callable[[], Path]) -> None:
    site.content, site.cuts, site.tag = OTHER, [100_000], None
    site.change_after = (1, CONTENT, None)
    with pytest.raises(vertebra.InputError, match="is not the file that is wanted: its MD5 sum is"):
        get()
    check_whole(get())


def test_a_part_that_is_longer_than_the_file(site: Site, get: Callable[[], Path], tmp_path: Path) -> None:
    (tmp_path / "file.zip.part").write_bytes(bytes(len(CONTENT) + 5))
    check_whole(get())
    assert site.asked == [f"bytes={len(CONTENT) + 5}-", None]


def test_a_whole_part_is_only_checked(site: Site, get: Callable[[], Path], tmp_path: Path) -> None:
    (tmp_path / "file.zip.part").write_bytes(CONTENT)
    check_whole(get())
    assert site.asked == []


def test_a_wrong_file(site: Site, get: Callable[[], Path], tmp_path: Path) -> None:
    site.content = OTHER
    found = hashlib.md5(OTHER).hexdigest()
    with pytest.raises(vertebra.InputError, match=rf"MD5 sum is {found}, not .*; it was removed"):
        get()
    assert list(tmp_path.iterdir()) == []
    site.content = CONTENT[:-1]
    with pytest.raises(vertebra.InputError, match="has 299,999 bytes, the file that is wanted has 300,000"):
        get()
    assert not (tmp_path / "file.zip").exists()


def test_refusals(site: Site, get: Callable[[], Path]) -> None:
    site.refusals = [404]
    with pytest.raises(vertebra.InputError, match=r"the server answers 404 \(Not Found\); check the address"):
        get()
    assert len(site.asked) == 1
    site.refusals = [503, 429]
    check_whole(get())


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(vertebra.InputError, match=r"refused.*, 3 times without a byte; 0 of 9 bytes are in"):
        download("http://127.0.0.1:9/x", tmp_path / "x", size=9, md5="", waits=(0, 0))
    with pytest.raises(vertebra.InputError, match="is no address"):
        download("http://127.0.0.1:9/a b\n", tmp_path / "x", size=9, md5="", waits=(0, 0))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written(site: Site, get: Callable[[], Path], tmp_path: Path) -> None:
    (tmp_path / "file.zip.part.tag").mkdir()
    with pytest.raises(vertebra.InputError, match=r"cannot write .*file\.zip\.part\.tag: Is a directory"):
        get()
    assert len(site.asked) == 1


def test_progress_and_what_is_told(site: Site, tmp_path: Path) -> None:
    site.cuts, site.length = [100_000], False
    shown: dict[str, list[int]] = {}
    told: list[str] = []
    download(
        site.url,
        tmp_path / "file.zip",
        size=len(CONTENT),
        md5=hashlib.md5(CONTENT).hexdigest(),
        watch=lambda task, size: shown.setdefault(f"{task} {size}", []).append,
        tell=told.append,
        waits=(0, 0),
    )
    assert list(shown) == ["file.zip 300000", "checking file.zip 300000"]
    for steps in shown.values():
        assert steps == sorted(steps)
        assert steps[-1] == 300_000
    assert told == ["file.zip: the connection was cut; trying again in 0 s"]


def test_a_second_start_beside_the_first(site: Site, get: Callable[[], Path], tmp_path: Path) -> None:
    part = tmp_path / "file.zip.part"
    part.write_bytes(CONTENT[:1000])
    with part.open("r+b") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(vertebra.InputError, match=r"file\.zip\.part is being written by another start"):
            get()
    assert part.read_bytes() == CONTENT[:1000]
    check_whole(get())
