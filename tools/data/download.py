"""Downloads of large files: gone on with where they were cut, and checked."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from ...backbones import InputError

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte, after which a connection counts as cut

# Seconds to wait before trying again, one after the other while not a byte comes; then it is given up.
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)

# Answers after which it is worth trying again; any other refusal will not change by itself.
PASSING = (408, 425, 429, 500, 502, 503, 504)

Watch = Callable[[str, int], Callable[[int], None]]  # shows a task of so many bytes; what it returns takes those done


def unwatched(task: str, size: int) -> Callable[[int], None]:
    """Show nothing."""
    return lambda done: None


class _Cut(Exception):
    """A transfer ended too early; another may go on."""


def download(
    url: str,
    target: Path,
    *,
    size: int,
    md5: str,
    watch: Watch = unwatched,
    tell: Callable[[str], None] = lambda line: None,
    waits: Sequence[float] = WAITS,
) -> None:
    """Bring a file of that size and MD5 sum to `target`, which appears whole or not at all.

    What has come so far is in `target`.part, from which this and later calls go on as long as the server has the same
    file (If-Range). Cut connections are tried again; after `waits` without a byte it is an InputError, as where the
    server refuses, or has another file.
    """
    part = _beside(target, ".part")
    advance, idle = watch(target.name, size), 0
    while _size(part) != size:
        before = _size(part)
        try:
            _go_on(url, part, size, advance)
        except _Cut as error:
            idle = 0 if _size(part) > before else idle + 1
            if idle > len(waits):
                raise InputError(
                    f"{url}: {error}, {idle} times without a byte; {_size(part):,} of {size:,} bytes are in "
                    f"{part}, from which the same command goes on"
                ) from error
            wait = waits[max(0, idle - 1)]
            tell(f"{target.name}: {error}; trying again in {wait:g} s")
            time.sleep(wait)
    found = _md5(part, watch(f"checking {target.name}", size))
    _tag_file(part).unlink(missing_ok=True)
    if found != md5:
        part.unlink()
        raise InputError(f"{url} is not the file that is wanted: its MD5 sum is {found}, not {md5}; it was removed")
    part.rename(target)


def _go_on(url: str, part: Path, size: int, advance: Callable[[int], None]) -> None:
    """Ask for what is missing, or for all of it, and write what comes."""
    have, tag = _size(part), _read_tag(part)
    headers = {"User-Agent": "vertebra"}
    if have:
        headers["Range"] = f"bytes={have}-"
        # Without one, that the parts are of one file shows in the checksum.
        headers |= {"If-Range": tag} if tag else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
            start = _start(response, have, tag, part)
            length = response.headers.get("Content-Length")
            if length is not None and start + int(length) != size:
                raise InputError(f"{url} has {start + int(length):,} bytes, the file that is wanted has {size:,}")
            _write(response, part, start, size, advance)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is here is no beginning of what is there
            part.unlink(missing_ok=True)
        elif error.code not in PASSING:
            raise InputError(f"{url}: the server answers {error.code} ({error.reason}); check the address") from error
        raise _Cut(f"the server answers {error.code} ({error.reason})") from error
    except http.client.InvalidURL as error:
        raise InputError(f"{url} is no address: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _Cut(str(reason) or type(reason).__name__) from error
    if _size(part) < size:
        raise _Cut("the connection was cut")


def _start(response: http.client.HTTPResponse, have: int, tag: str, part: Path) -> int:
    """Return where in the file the answer begins; one that goes on with another file is of no use."""
    if response.status != 206:
        return 0
    begins = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    if begins != str(have) or (tag and _tag(response.headers) != tag):
        part.unlink(missing_ok=True)
        raise _Cut("the file has changed on the server")
    return have


def _write(
    response: http.client.HTTPResponse, part: Path, start: int, size: int, advance: Callable[[int], None]
) -> None:
    done = start
    advance(done)
    with _open(part) as file:
        _lock(file, part)
        file.seek(start)
        file.truncate()
        _write_tag(part, response.headers)  # not before: what was there may be of another version
        while done < size and (chunk := response.read1(min(CHUNK, size - done))):
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:  # no cut connection: trying again would not help
                raise InputError(f"cannot write {part}: {error.strerror}") from error
            done += len(chunk)
            advance(done)


def _open(part: Path) -> IO[bytes]:
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        return part.open("r+b")
    except OSError as error:
        raise InputError(f"cannot write {part}: {error.strerror}") from error


def _lock(file: IO[bytes], part: Path) -> None:
    """Keep a second start of the same download from writing into the file; it is free again when the file is closed."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"{part} is being written by another start of this download; let that one finish") from error


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


# --- what tells one version of a file from another ------------------------------------------------------------------


def _tag(headers: http.client.HTTPMessage) -> str:
    tag = headers.get("ETag", "")
    # A weak one does not promise the same bytes, and servers refuse it in If-Range.
    return headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag


def _tag_file(part: Path) -> Path:
    return _beside(part, ".tag")


def _read_tag(part: Path) -> str:
    path = _tag_file(part)
    return path.read_text(encoding="latin-1") if path.is_file() else ""


def _write_tag(part: Path, headers: http.client.HTTPMessage) -> None:
    path = _tag_file(part)
    try:
        path.write_text(_tag(headers), encoding="latin-1")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def _md5(path: Path, advance: Callable[[int], None]) -> str:
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            advance(done)
    return digest.hexdigest()
