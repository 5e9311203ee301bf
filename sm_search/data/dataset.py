"""A dataset folder: `manifest.json` and, for each scan, `<scan-id>/low.mdf` and `<scan-id>/high.mdf`.

It is on this machine, or on S3-compatible storage (`sm_search.data.storage`).
"""

import hashlib
import itertools
import json
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field, ValidationError

from sm_search.config.base import Settings, content_hash
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import FieldName, Scan
from sm_search.data.agreement import is_measured, require_agreement
from sm_search.data.atomic import atomic_path, sha256
from sm_search.data.mdf import write_mdf
from sm_search.data.mdf_fields import receive_fields
from sm_search.data.mdf_reading import read_mdf
from sm_search.data.scanner_record import scanner_record
from sm_search.data.storage import WRONG_HASH, S3Folder, cache_folder, is_uri
from sm_search.physics.receive import received
from sm_search.physics.system_matrix import SystemMatrix

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
MEASURED = (
    "is a measured file, not the one that was simulated here; move it away: a simulated dataset takes none, and "
    "`simulate` does not overwrite it"
)
FIELDS: tuple[FieldName, FieldName] = ("low", "high")
_UUID_SPACE = uuid.UUID("5f1d7c1e-9b56-4c83-8f0e-53b0a5b0d8a4")


class FileHashes(NamedTuple):
    """SHA-256 of a file as it lies there, and of what it says: the same but for the time of its making."""

    file: str
    content: str


class Manifest(Settings):
    """What `manifest.json` holds: the settings, their hash, and the hashes of every finished file.

    Attributes:
        contents: of the files' contents; older versions noted none.
    """

    format: int = Field(default=1, ge=1, le=1)
    created: str
    settings: DatasetSettings
    settings_hash: str
    files: dict[str, str] = Field(default={})
    contents: dict[str, str] = Field(default={})


@dataclass(frozen=True)
class Pair:
    """One scan at the low and at the high gradient; `values_CKN` of both are memory maps of their files."""

    scan: Scan
    low: SystemMatrix
    high: SystemMatrix

    def tensors(self) -> "tuple[Tensor, Tensor]":
        """The values of both as torch tensors of their own, complex128, (C, K, N)."""
        import torch  # reading files alone does not need it, and it takes a second

        return torch.from_numpy(self.low.values_CKN.copy()), torch.from_numpy(self.high.values_CKN.copy())


@dataclass
class Dataset:
    """An opened dataset folder; files are read when asked for.

    Attributes:
        folder: where the files are on this machine; those of a remote dataset come there when they are read.
        remote: where the dataset itself is, unless that is `folder`.
    """

    folder: Path
    manifest: Manifest
    remote: S3Folder | None = None
    _verified: set[str] = field(default_factory=set)

    @property
    def location(self) -> str:
        """What `open` takes: the folder, or the URI of a remote dataset."""
        return self.remote.uri if self.remote else str(self.folder)

    @property
    def settings(self) -> DatasetSettings:
        return self.manifest.settings

    @staticmethod
    def create(folder: str | Path, settings: DatasetSettings) -> "Dataset":
        """Open `folder`, a path or an s3:// URI, for writing: a new dataset, or an unfinished one of the same settings.

        Raises:
            DataError: the folder holds a dataset of other settings, or cannot be written.
        """
        remote = S3Folder(folder) if is_uri(folder) else None
        if remote.exists(MANIFEST) if remote else (Path(folder) / MANIFEST).exists():
            dataset = Dataset.open(folder, complete=False)
            if dataset.manifest.settings_hash != settings.content_hash():
                raise DataError(
                    f"{folder}: holds dataset {dataset.settings.name!r} with other settings "
                    f"({dataset.manifest.settings_hash[:12]} ≠ {settings.content_hash()[:12]}); choose another folder"
                )
            return dataset
        created = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
        manifest = Manifest(created=created, settings=settings, settings_hash=settings.content_hash())
        dataset = Dataset(_local_folder(folder, remote, manifest), manifest, remote)
        if remote is None:
            try:
                dataset.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{folder}: cannot be created: {error.strerror}") from None
        dataset._write_manifest()
        return dataset

    @staticmethod
    def open(folder: str | Path, *, complete: bool = True) -> "Dataset":
        """Open an existing dataset, a path or an s3:// URI.

        Raises:
            DataError: no manifest, a damaged one, or (if `complete`) unfinished files.
        """
        remote = S3Folder(folder) if is_uri(folder) else None
        path = f"{remote.uri}/{MANIFEST}" if remote else Path(folder) / MANIFEST
        try:
            content = remote.read(MANIFEST) if remote else Path(folder, MANIFEST).read_bytes()
            manifest = Manifest.model_validate_json(content)
        except FileNotFoundError:
            raise DataError(f"{path}: does not exist; a dataset folder is made by `sm-search simulate`") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise DataError(f"{path}: {'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}") from None
        if manifest.settings.content_hash() != manifest.settings_hash:
            raise DataError(f"{path}: settings_hash: does not match the settings in the same file")
        dataset = Dataset(_local_folder(folder, remote, manifest), manifest, remote)
        if complete:
            missing = dataset.missing()
            if missing:
                raise DataError(
                    f"{path}: {len(missing)} files are not simulated yet, first {missing[0]}; `simulate` makes "
                    "them, and `sweep --while-simulating` begins with those that exist"
                )
        return dataset

    def refresh(self) -> None:
        """Read the manifest again, in which another process notes the files that it simulates.

        What cannot be read now stays as it was: who waits asks again.

        Raises:
            DataError: it is another dataset now, or a file that was there has other content.
        """
        try:
            new = Dataset.open(self.location, complete=False).manifest
        except DataError:
            return
        old = self.manifest
        if (new.settings_hash, new.created) != (old.settings_hash, old.created):
            raise DataError(f"{self.location}: was replaced by another dataset")
        changed = next((name for name, digest in old.files.items() if new.files.get(name) != digest), None)
        if changed is not None:
            raise DataError(f"{self.location}/{changed}: was made again, with other content")
        self.manifest = new

    def missing(self, scans: Iterable[Scan] | None = None) -> list[str]:
        """Names of the files of these scans, or of all, that the manifest does not name yet."""
        names = (
            [name for _, name in self.expected()]
            if scans is None
            else [file_name(scan, which) for scan in scans for which in FIELDS]
        )
        return [name for name in names if name not in self.manifest.files]

    def expected(self) -> list[tuple[Scan, str]]:
        """Every scan with the name of its file, low before high."""
        return [
            (scan, file_name(scan, which))
            for split in self.settings.splits
            for scan in self.settings.scans(split)
            for which in FIELDS
        ]

    def unfinished(self) -> list[tuple[Scan, FieldName]]:
        """The files that are missing or whose hash is wrong; reads every file.

        Raises:
            DataError: in the place of one lies a file that was measured, which is not to be overwritten.
        """
        found = []
        for split in self.settings.splits:
            for scan, which in itertools.product(self.settings.scans(split), FIELDS):
                name = file_name(scan, which)
                known, stored = self.manifest.files.get(name), self._stored_sha256(name)
                if known is None or stored != known:
                    if stored is not None:
                        self._require_simulated(name)
                    found.append((scan, which))
        return found

    def _require_simulated(self, name: str) -> None:
        """Refuse to make a file anew where a measured one lies."""
        with tempfile.TemporaryDirectory() as local:
            path = self.folder / name
            if self.remote:
                path = Path(local, "stored.mdf")
                path.write_bytes(self.remote.read(name))
            if is_measured(path):
                raise DataError(f"{self.location}/{name}: {MEASURED}")

    def _stored_sha256(self, name: str) -> str | None:
        if self.remote:
            return self.remote.sha256(name)
        path = self.folder / name
        return sha256(path) if path.is_file() else None

    def record(self, hashes: Mapping[str, FileHashes]) -> None:
        """Note finished files in the manifest."""
        files = {**self.manifest.files, **{name: found.file for name, found in hashes.items()}}
        contents = {**self.manifest.contents, **{name: found.content for name, found in hashes.items()}}
        self.manifest = self.manifest.model_copy(update={"files": files, "contents": contents})
        self._write_manifest()

    def content_hash(self) -> str:
        """Hash of the settings and of what every file says, whenever it was made: what a run was trained on.

        Empty as long as files are missing.
        """
        return next(iter(self.known_hashes()), "")

    def known_hashes(self) -> tuple[str, ...]:
        """The content hash, and the one by which older versions knew this dataset: it contained when files were made.

        A dataset that such a version began has only that one. None as long as files are missing.
        """
        if self.missing():
            return ()
        manifest = self.manifest
        by_files = content_hash([manifest.settings_hash, manifest.files])
        if manifest.files.keys() != manifest.contents.keys():
            return (by_files,)
        return content_hash([manifest.settings_hash, "contents", manifest.contents]), by_files

    def origin_hash(self) -> str:
        """Hash of the settings and of the time of its beginning: which dataset this is, finished or not."""
        return content_hash([self.manifest.settings_hash, self.manifest.created])

    def read(self, scan: Scan, which: FieldName) -> SystemMatrix:
        """One system matrix, memory-mapped; see `file`.

        Raises:
            DataError: as `file`, or what the file says of itself is not what the manifest says.
        """
        path = self.file(scan, which)
        sm = read_mdf(path)
        require_agreement(str(path), sm, self.settings, scan, which)
        return sm

    def file(self, scan: Scan, which: FieldName) -> Path:
        """One MDF file on this machine; its hash is checked at the first call, and a remote one is fetched once.

        Raises:
            DataError: the file is missing, damaged, or not the one that the manifest names.
        """
        name = file_name(scan, which)
        path = self.folder / name
        if name not in self.manifest.files:
            raise DataError(f"{self.location}/{MANIFEST}: files: does not name {name}")
        if name not in self._verified:
            expected = self.manifest.files[name]
            if self.remote:
                self.remote.fetch(name, expected, path)
            elif sha256(path) != expected:
                raise DataError(f"{path}: {self._damage(scan, path)}")
            self._verified.add(name)
        return path

    @staticmethod
    def _damage(scan: Scan, path: Path) -> str:
        """What is wrong with a file of another hash, and what mends it."""
        if scan.measured is not None:
            return "its SHA-256 is not the one in manifest.json; import the measured pair again to repair it"
        return MEASURED if is_measured(path) else WRONG_HASH

    def pair(self, scan: Scan) -> Pair:
        return Pair(scan, self.read(scan, "low"), self.read(scan, "high"))

    def pairs(self, split: str, count: int | None = None) -> Iterable[Pair]:
        """The pairs of a split, or of `count` scans of it, one at a time."""
        return (self.pair(scan) for scan in self.settings.scans(split, count))

    def _write_manifest(self) -> None:
        text = json.dumps(self.manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        if self.remote:
            self.remote.write(MANIFEST, text.encode())
            return
        with atomic_path(self.folder / MANIFEST) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _local_folder(folder: str | Path, remote: S3Folder | None, manifest: Manifest) -> Path:
    """The folder itself, or the cache of a remote dataset, which a dataset made there later does not share."""
    return cache_folder(remote.uri, manifest.settings_hash, manifest.created) if remote else Path(folder)


def file_name(scan: Scan, which: FieldName) -> str:
    return f"{scan.id}/{which}.mdf"


def write_scan(
    folder: str | Path, settings: DatasetSettings, created: str, scan: Scan, which: FieldName, sm: SystemMatrix
) -> FileHashes:
    """Send a simulated magnetisation through the receive chain, write it as one file of a dataset, return its hashes.

    The noise comes from a stream named after the scan and the field: identical settings give identical bytes, in
    whatever order the files are made.
    """
    name = file_name(scan, which)
    if is_uri(folder):
        remote = S3Folder(folder)
        with tempfile.TemporaryDirectory() as local:
            hashes = write_scan(local, settings, created, scan, which, sm)
            remote.write(name, Path(local, name).read_bytes())
        return hashes
    identity = uuid.uuid5(_UUID_SPACE, f"{settings.physics_hash()}/{name}")
    path = Path(folder, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be created: {error.strerror}") from None
    stored, chain = received(settings, scan, which, sm)
    extra = receive_fields(chain) | scanner_record(settings.scanner_of(scan), settings.field(which), scan.scanner)
    write_mdf(path, stored, uuid=str(identity), time=created, averages=chain.averages, extra=extra)
    return FileHashes(sha256(path), content_digest(path, created))


def content_digest(path: Path, created: str) -> str:
    """SHA-256 of a file in which `created`, the time that was written into it, is blank."""
    time = created.encode()
    return hashlib.sha256(path.read_bytes().replace(time, b" " * len(time))).hexdigest()
