"""Dataset folders on S3-compatible storage, such as s3://bucket/data/demo, through pyarrow.

An object appears whole or not at all: each is one upload. What is read goes through a cache on this machine, where
it is memory-mapped. Endpoint, region and credentials are those of the environment, as every AWS tool takes them.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sm_search.config.base import content_hash
from sm_search.config.errors import DataError
from sm_search.data.atomic import atomic_path, sha256

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

CACHE_VARIABLE = "SM_SEARCH_CACHE"
WRONG_HASH = "its SHA-256 is not the one in manifest.json; simulate again to repair it"
CONNECT_S, SILENCE_S, ATTEMPTS = 3, 5, 3
"""Seconds to wait for a connection, and for the next byte; tries in all. What does not answer ends within 20 s."""
_BLOCK = 1 << 23
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_S3_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]+)((?:/[^/?#]+)*)/?")


def is_uri(place: str | Path) -> bool:
    """Whether `place` is a URI and not a path on this machine."""
    return _SCHEME.match(str(place)) is not None


def absolute(place: str | Path) -> str:
    """`place` as another process finds it: a URI as it is, a path absolute, with the home folder for a leading `~`."""
    return str(place) if is_uri(place) else str(Path(os.path.expanduser(place)).absolute())


def cache_folder(*identity: str) -> Path:
    """Where copies of what has this identity are kept: in $SM_SEARCH_CACHE or ~/.cache/sm_search. May be deleted."""
    root = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "sm_search")
    return root.absolute() / content_hash(identity)[:16]


class S3Folder:
    """A folder in a bucket. Every method raises DataError, one line with the URI and the reason."""

    def __init__(self, uri: str | Path) -> None:
        match = _S3_URI.fullmatch(str(uri))
        if match is None:
            raise DataError(f"{uri}: must be a folder or s3://BUCKET/FOLDER (the endpoint comes from AWS_ENDPOINT_URL)")
        self.uri = str(uri).rstrip("/")
        self._bucket, self._path = match[1], match[1] + match[2]

    def exists(self, name: str) -> bool:
        with self._naming(name, "read"):
            return bool(self._client().get_file_info(f"{self._path}/{name}").is_file)

    def read(self, name: str) -> bytes:
        return b"".join(self._blocks(name))

    def write(self, name: str, content: bytes) -> None:
        with self._naming(name, "written"), self._client().open_output_stream(f"{self._path}/{name}") as stream:
            stream.write(content)

    def delete(self, name: str) -> None:
        with self._naming(name, "deleted"):
            self._client().delete_file(f"{self._path}/{name}")

    def sha256(self, name: str) -> str | None:
        """SHA-256 of the object as it lies there, None if there is none."""
        if not self.exists(name):
            return None
        digest = hashlib.sha256()
        for block in self._blocks(name):
            digest.update(block)
        return digest.hexdigest()

    def fetch(self, name: str, expected: str, target: Path) -> None:
        """Make `target` a copy of the object with this SHA-256; nothing is transferred if it is one already."""
        with _one_process(target):
            if target.is_file() and sha256(target) == expected:
                return
            digest = hashlib.sha256()
            with atomic_path(target) as temporary:
                with temporary.open("wb") as file:
                    for block in self._blocks(name):
                        digest.update(block)
                        file.write(block)
                if digest.hexdigest() != expected:
                    raise DataError(f"{self.uri}/{name}: {WRONG_HASH}")

    def _blocks(self, name: str) -> Iterator[bytes]:
        with self._naming(name, "read"), self._client().open_input_stream(f"{self._path}/{name}") as stream:
            while block := stream.read(_BLOCK):
                yield block

    def _client(self) -> "S3FileSystem":
        return _client(self._bucket, os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))

    @contextmanager
    def _naming(self, name: str, verb: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise DataError(f"{self.uri}/{name}: {self._what_is_missing()}") from None
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:400]
            if "ACCESS_DENIED" in reason:
                reason += " Credentials come from the environment, ~/.aws or the machine's role."
            raise DataError(f"{self.uri}/{name}: cannot be {verb}: {reason}") from error

    def _what_is_missing(self) -> str:
        with suppress(OSError):
            if self._client().get_file_info(self._bucket).type.name == "NotFound":
                return f"there is no bucket {self._bucket!r}"
        return "does not exist"


class Place:
    """Small files in a folder on this machine or in a bucket; raises OSError there and DataError here."""

    def __init__(self, place: str | Path) -> None:
        self._remote = S3Folder(place) if is_uri(place) else None
        self._folder = Path(place)

    def __str__(self) -> str:
        return self._remote.uri if self._remote else str(self._folder)

    def exists(self, name: str) -> bool:
        return self._remote.exists(name) if self._remote else (self._folder / name).exists()

    def read(self, name: str) -> str:
        return self._remote.read(name).decode() if self._remote else (self._folder / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        if self._remote:
            self._remote.write(name, text.encode())
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def delete(self, name: str) -> None:
        if self._remote:
            self._remote.delete(name)
        else:
            (self._folder / name).unlink(missing_ok=True)


@lru_cache(maxsize=8)
def _client(bucket: str, endpoint: str | None) -> "S3FileSystem":
    """The connection of this process to a bucket; unlike Ray's, it gives up in seconds."""
    from pyarrow import fs

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return fs.S3FileSystem(
        region=region if endpoint else fs.resolve_s3_region(bucket),
        endpoint_override=endpoint,
        allow_delayed_open=True,
        connect_timeout=CONNECT_S,
        request_timeout=SILENCE_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


@contextmanager
def _one_process(target: Path) -> Iterator[None]:
    """Of the processes that want the same file at once, one fetches it and the others wait."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f".{target.name}.lock").open("wb")
    except OSError as error:
        reason = f"{error.strerror}; ${CACHE_VARIABLE} names another place for the cache"
        raise DataError(f"{target.parent}: cannot be written: {reason}") from error
    with lock:
        # A file system without locks costs a second transfer, no more: files are replaced whole.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
