"""Archives: what is unpacked appears whole or not at all, and nothing lies outside its folder."""

import hashlib
import io
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import vertebra
from vertebra.tools.data import archives
from vertebra.tools.data.archives import COCO, Archive, Source, choose, fetch
from vertebra.tools.data.download import unwatched


def zipped(members: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members.items():
            # Dated by ZipInfo, not by the clock: the bytes name a test, which has one name in all processes.
            archive.writestr(zipfile.ZipInfo(name), value, zipfile.ZIP_DEFLATED)
    return content.getvalue()


def archive_of(content: bytes, *contents: str, inner: tuple[str, ...] = ()) -> Archive:
    return Archive("zips/set.zip", len(content), hashlib.md5(content).hexdigest(), contents, len(content), inner)


def arrived(root: Path, content: bytes) -> None:
    """Put an archive where its download would have brought it."""
    root.mkdir(exist_ok=True)
    (root / "set.zip").write_bytes(content)


def files_in(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_what_is_listed_is_unpacked_beside_what_is_there(tmp_path: Path) -> None:
    content = zipped({"train/a.jpg": b"a", "train/deep/b.jpg": b"b", "notes/one.json": b"1", "notes/two.json": b"2"})
    arrived(tmp_path, content)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.json").write_text("mine")
    fetch(archive_of(content, "train", "notes/one.json"), tmp_path, "http://nowhere")
    assert files_in(tmp_path) == ["notes/mine.json", "notes/one.json", "train/a.jpg", "train/deep/b.jpg"]


def test_archives_in_an_archive(tmp_path: Path) -> None:
    """As COCO has the maps of its stuff."""
    maps = zipped({"maps/1.png": b"1", "maps/2.png": b"2"})
    content = zipped({"notes/maps.zip": maps, "notes/stuff.json": b"{}"})
    arrived(tmp_path, content)
    fetch(archive_of(content, "notes/stuff.json", "notes/maps", inner=("notes/maps.zip",)), tmp_path, "http://nowhere")
    assert files_in(tmp_path) == ["notes/maps/1.png", "notes/maps/2.png", "notes/stuff.json"]


def test_what_was_there_already_is_left_alone(tmp_path: Path) -> None:
    content = zipped({"train/a.jpg": b"new", "val/a.jpg": b"new"})
    arrived(tmp_path, content)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jpg").write_bytes(b"old")
    fetch(archive_of(content, "train", "val"), tmp_path, "http://nowhere")
    assert (tmp_path / "train" / "a.jpg").read_bytes() == b"old"
    assert (tmp_path / "val" / "a.jpg").read_bytes() == b"new"


def linked() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        link = zipfile.ZipInfo("train/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped({"train/a.jpg": b"a", "../evil": b"x"}), "'../evil', which would lie outside its folder"),
        (zipped({"train/../../evil": b"x"}), "'train/../../evil', which would lie outside"),
        (zipped({"/evil": b"x"}), "'/evil', which would lie outside"),
        (zipped({"train\\..\\..\\evil": b"x"}), "evil', which would lie outside"),
        (zipped({"C:/evil": b"x"}), "'C:/evil', which would lie outside"),
        (linked(), "the link 'train/link', which may lead outside"),
        (zipped({"train/a.jpg": b"a" * 9999})[:60], "is not a sound zip file"),
        (zipped({"other/a.jpg": b"a"}), "does not hold train; remove it and start again"),
        (b"no zip", "is not a sound zip file"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    root = tmp_path / "root"
    arrived(root, content)
    with pytest.raises(vertebra.InputError, match=re.escape(message)):
        fetch(archive_of(content, "train"), root, "http://nowhere")
    assert files_in(tmp_path) == ["root/set.zip"]
    assert [path.name for path in root.iterdir()] == ["set.zip"]


def test_a_member_with_a_wrong_checksum_leaves_no_folder(tmp_path: Path) -> None:
    content = bytearray(zipped({"train/a.jpg": b"a" * 50, "train/b.jpg": bytes(range(256)) * 40}))
    content[content.rindex(b"train/b.jpg", 0, content.index(b"PK\x01\x02")) + 30] ^= 255
    arrived(tmp_path, bytes(content))
    with pytest.raises(vertebra.InputError, match="is not a sound zip file"):
        fetch(archive_of(bytes(content), "train"), tmp_path, "http://nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_stopped_in_the_middle_nothing_half_unpacked_is_seen(tmp_path: Path) -> None:
    """Neither while it is unpacked, nor after Ctrl-C; the next start finishes, from the archive that is there."""
    content = zipped({f"train/{i}.jpg": b"x" for i in range(9)})
    arrived(tmp_path, content)
    archive = archive_of(content, "train")
    seen: list[bool] = []

    def stop(task: str, size: int) -> object:
        def advance(done: int) -> None:
            seen.append((tmp_path / "train").exists())
            if done == 5:
                raise KeyboardInterrupt

        return advance

    with pytest.raises(KeyboardInterrupt):
        fetch(archive, tmp_path, "http://nowhere", watch=stop)
    assert seen == [False] * 5
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]
    (tmp_path / ".set.zip.unpacking" / "train").mkdir(parents=True)  # as a kill leaves it
    (tmp_path / ".set.zip.unpacking" / "train" / "old.jpg").touch()
    fetch(archive, tmp_path, "http://nowhere", watch=unwatched)
    assert files_in(tmp_path) == [f"train/{i}.jpg" for i in range(9)]


def test_what_is_there_is_not_wanted_and_space_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(
        "http://nowhere",
        "data",
        ("one",),
        {
            "one": Archive("zips/one.zip", 2_000_000_000, "", ("one",), 3_000_000_000),
            "two": Archive("zips/two.zip", 1_000_000_000, "", ("two/a", "two/b"), 1_000_000_000),
        },
    )
    usage = type("Usage", (), {"free": 6_999_999_999})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage)
    root = tmp_path / "deep" / "root"
    with pytest.raises(
        vertebra.InputError, match=r"one\.zip, two\.zip and what they unpack to need about 7\.0 GB; .* has 7\.0 GB free"
    ):
        choose(source, ["one", "two"], root)
    assert [archive.name for archive in choose(source, ["two", "two"], root)] == ["two.zip"]
    (root / "one").mkdir(parents=True)
    assert [archive.name for archive in choose(source, ["one", "two"], root)] == ["two.zip"]
    (root / "two").mkdir()
    (root / "two" / "a").touch()
    assert [archive.name for archive in choose(source, ["one", "two"], root)] == ["two.zip"]
    (root / "two" / "b").touch()
    assert choose(source, ["one", "two"], root) == []
    with pytest.raises(vertebra.InputError, match=r"unknown part 'on'\. Did you mean 'one'\? Known: one, two"):
        choose(source, ["on"], root)


def test_the_part_that_came_counts_as_space_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive("zips/set.zip", 1000, "", ("set",), 500)
    source = Source("", "", ("set",), {"set": archive})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1100}))
    with pytest.raises(vertebra.InputError, match=r"set\.zip and what they unpack to"):
        choose(source, ["set"], tmp_path)
    (tmp_path / "set.zip.part").write_bytes(bytes(400))
    assert choose(source, ["set"], tmp_path) == [archive]


def test_cocos_archives_are_those_that_its_settings_look_for() -> None:
    from vertebra.tools.config import read_data

    there = {name for archive in COCO.archives.values() for name in archive.contents}
    for name in ("coco", "coco_voc", "coco_stuff"):
        data = read_data(name)
        assert data.root == COCO.root
        for split in (data.train, data.val):
            assert {split.images, split.annotations or split.labels} <= there
    stuff = read_data("coco_stuff")
    assert set(stuff.labels.names_from) <= there
    assert set(COCO.default) <= set(COCO.archives)
    for archive in COCO.archives.values():
        assert re.fullmatch("[0-9a-f]{32}", archive.md5)
