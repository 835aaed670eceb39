"""The official archives of data sets, and how they come to lie where `--data` looks for them."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...backbones import InputError
from ...backbones.errors import unknown
from .download import CHUNK, WAITS, Watch, download, unwatched


@dataclass(frozen=True)
class Archive:
    """A zip file: its path below the server's address, size and MD5 sum, and what of it is unpacked, by paths in it.

    `unpacked` is about how many bytes that takes. `inner` are archives within it, unpacked where they lie.
    """

    path: str
    size: int
    md5: str
    contents: tuple[str, ...]
    unpacked: int
    inner: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Source:
    """Where the archives of a data set are by default, on the server and here, and which are wanted."""

    url: str
    root: str
    default: tuple[str, ...]
    archives: Mapping[str, Archive]


# COCO publishes no sums. The MD5 sums of train, val and annotations are those of PaddleDetection
# (ppdet/utils/download.py), that of stuff is pytorchcocotools'; sizes are those of TensorFlow Datasets
# (url_checksums/coco.txt), and of stuff what the server states, by others' accounts.
COCO = Source(
    url="http://images.cocodataset.org",  # as its page gives it; the sums tell whether a file is the official one
    root="data/coco",
    default=("train", "val", "annotations"),
    archives={
        "train": Archive(
            path="zips/train2017.zip",
            size=19_336_861_798,
            md5="cced6f7f71b7629ddf16f17bbcfab6b2",
            contents=("train2017",),
            unpacked=19_400_000_000,
        ),
        "val": Archive(
            path="zips/val2017.zip",
            size=815_585_330,
            md5="442b8da7639aecaf257c1dceb8ba8c80",
            contents=("val2017",),
            unpacked=820_000_000,
        ),
        "annotations": Archive(
            path="annotations/annotations_trainval2017.zip",
            size=252_907_541,
            md5="f4bbac642086de4f52a3fdda2de5fa2c",
            contents=tuple(
                f"annotations/{kind}_{part}2017.json"
                for kind in ("instances", "person_keypoints", "captions")
                for part in ("train", "val")
            ),
            unpacked=850_000_000,
        ),
        "stuff": Archive(
            path="annotations/stuff_annotations_trainval2017.zip",
            size=1_148_688_564,
            md5="2a27c15a2dfcbd2e1c9276dc23cac101",
            contents=tuple(
                f"annotations/stuff_{part}2017{kind}" for part in ("train", "val") for kind in (".json", "_pixelmaps")
            ),
            unpacked=4_000_000_000,
            inner=tuple(f"annotations/stuff_{part}2017_pixelmaps.zip" for part in ("train", "val")),
        ),
    },
)
SOURCES = {"coco": COCO}


def missing(archive: Archive, root: Path) -> list[str]:
    """Return what of an archive's contents is not there yet."""
    return [name for name in archive.contents if not (root / name).exists()]


def choose(source: Source, names: Sequence[str], root: Path) -> list[Archive]:
    """Return the archives of these names whose contents are not all there; too little space is an InputError."""
    for name in names:
        if name not in source.archives:
            raise unknown("part", name, source.archives)
    wanted = [source.archives[name] for name in dict.fromkeys(names) if missing(source.archives[name], root)]
    needed = sum(archive.unpacked + archive.size - _here(root, archive) for archive in wanted)
    place = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise InputError(
            f"{', '.join(archive.name for archive in wanted)} and what they unpack to need about "
            f"{needed / 1e9:.1f} GB; {place} has {free / 1e9:.1f} GB free"
        )
    return wanted


def _here(root: Path, archive: Archive) -> int:
    """Return how many bytes of an archive have come already."""
    paths = (root / archive.name, root / f"{archive.name}.part")
    return next((path.stat().st_size for path in paths if path.is_file()), 0)


def fetch(
    archive: Archive,
    root: Path,
    url: str,
    *,
    watch: Watch = unwatched,
    tell: Callable[[str], None] = lambda line: None,
    waits: Sequence[float] = WAITS,
) -> None:
    """Download an archive into `root`, unpack and remove it; each of its `contents` appears whole or not at all."""
    path = root / archive.name
    if not path.is_file():
        download(f"{url}/{archive.path}", path, size=archive.size, md5=archive.md5, watch=watch, tell=tell, waits=waits)
    # Beside what it becomes, so that each thing is there by one renaming.
    scratch = root / f".{archive.name}.unpacking"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        unpack(path, scratch, (*archive.contents, *archive.inner), watch)
        for inner in archive.inner:
            unpack(scratch / inner, (scratch / inner).parent, None, watch)
        for name in missing(archive, root):
            if not (scratch / name).exists():
                raise InputError(f"{path} does not hold {name}; remove it and start again")
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).rename(root / name)
    except OSError as error:
        raise InputError(f"{path} cannot be unpacked: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    path.unlink()


def unpack(path: Path, folder: Path, wanted: Sequence[str] | None, watch: Watch) -> None:
    """Unpack a zip file into a folder: all of it, or what is at or below the wanted paths.

    One that is damaged, has members that would lie outside the folder, or links, is an InputError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if wanted is None or _is_of(member.filename, wanted)]
            for member in archive.infolist():
                _check(path, member)
            needed, free = sum(member.file_size for member in members), shutil.disk_usage(path.parent).free
            if needed > free:
                raise InputError(f"{path} unpacks to {needed / 1e9:.1f} GB; there are {free / 1e9:.1f} GB free")
            advance, done = watch(f"unpacking {path.name}", needed), 0
            for member in members:
                target = folder / member.filename
                if member.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as content, target.open("wb") as file:
                    shutil.copyfileobj(content, file, CHUNK)
                advance(done := done + member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InputError(f"{path} is not a sound zip file ({error}); remove it and start again") from error


def _is_of(name: str, wanted: Sequence[str]) -> bool:
    return any(name == path or name.startswith(f"{path}/") for path in wanted)


def _check(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
        raise InputError(f"{path} holds {name!r}, which would lie outside its folder; it is not unpacked")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{path} holds the link {name!r}, which may lead outside its folder; it is not unpacked")
