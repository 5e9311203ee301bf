"""`doctor`: is this cluster, this storage and this MLflow server fit for a sweep? One line each, with the remedy."""

import os
import shutil
import socket
import sys
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import ray

from sm_search.compute.nodes import NodeAnswer, ask_nodes
from sm_search.compute.ray_internals import session_folder
from sm_search.compute.session import ray_session
from sm_search.config.errors import InputError, SmSearchError, TrackingError
from sm_search.data.storage import Place, absolute, is_uri
from sm_search.tracking.database import DatabaseError
from sm_search.tracking.relocation import moved_from
from sm_search.tracking.store import TRACKING_VARIABLE, open_store

Status = Literal["ok", "failed", "skipped"]
VERSIONED = ("ray", "torch", "sm-search")
LEAST_FREE_GIB = 5
MOST_FULL = 0.95
"""Ray stops placing objects on a disk that is fuller."""
GIB = 1 << 30


@dataclass(frozen=True)
class Check:
    """One line of the answer; `remedy` says what to do about a failure."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def examine(address: str | None, storage: str | None, home: Path, tracking_uri: str | None) -> list[Check]:
    """All checks, in the order in which their causes depend on each other."""
    checks = [_token(), examine_mlflow(home, tracking_uri)]
    try:
        with ray_session(address):
            nodes = [node for node in ray.nodes() if node["Alive"]]
            resources = ray.cluster_resources()
            found = f"{len(nodes)} nodes, {resources.get('CPU', 0):.0f} CPUs, {resources.get('GPU', 0):.3g} GPUs"
            cluster = Check("ray", "ok", f"{address or 'this machine'}: {found}")
            place = absolute(storage or home)
            with Mark(place) as mark:
                answers = ask_nodes(nodes, look_around, place, mark.name)
                return [cluster, *checks, *_on_nodes(nodes, answers), *_storage(place, bool(storage), mark, answers)]
    except InputError as error:
        remedy = "on the head: `ray status`; from elsewhere its port must be open to you, or tunnelled by ssh -L"
        if "oken" in str(error):
            remedy = "copy the head's ~/.ray/auth_token to this machine and set RAY_AUTH_MODE=token"
        return [Check("ray", "failed", str(error), remedy), *checks]


def look_around(storage: str, mark: str) -> dict[str, Any]:
    """What a node has; runs there."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # of this task, which asked for no GPU
    import torch

    usage = shutil.disk_usage(session_folder())
    found = {
        "python": sys.version.split()[0],
        **{name: version(name) for name in VERSIONED},
        "cuda": torch.cuda.device_count(),
        "free_gib": usage.free / GIB,
        "full": 1 - usage.free / usage.total,
        "storage": "",
    }
    try:
        place = Place(storage)
        if place.read(mark) != mark:
            found["storage"] = f"{storage}: is another folder here than where doctor runs"
        place.write(own := f"{mark}-{uuid.uuid4().hex[:8]}", mark)
        found["own"] = own
    except (SmSearchError, OSError) as error:
        found["storage"] = str(error)
    return found


class Mark:
    """A file in the storage for as long as the nodes look for it, and theirs are deleted with it."""

    def __init__(self, storage: str) -> None:
        self.storage, self.name, self.error = storage, f".doctor-{uuid.uuid4().hex[:8]}", ""

    def __enter__(self) -> "Mark":
        try:
            if not is_uri(self.storage):
                Path(self.storage).mkdir(parents=True, exist_ok=True)
            Place(self.storage).write(self.name, self.name)
        except (SmSearchError, OSError) as error:
            self.error = str(error)
        return self

    def __exit__(self, *_: object) -> None:
        self.clear([self.name])

    def clear(self, names: Iterable[str]) -> None:
        for name in () if self.error else names:
            Place(self.storage).delete(name)


def _token() -> Check:
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return Check("token", "skipped", "RAY_AUTH_MODE is not token: whoever reaches Ray's ports can run code")
    place = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")
    if os.environ.get("RAY_AUTH_TOKEN") or (place.is_file() and place.read_text().strip()):
        return Check("token", "ok", "RAY_AUTH_MODE=token, and there is one")
    return Check(
        "token", "failed", f"RAY_AUTH_MODE=token, but no token in {place}", "copy the head's ~/.ray/auth_token"
    )


def examine_mlflow(home: Path, tracking_uri: str | None) -> Check:
    """Does the tracking store answer?"""
    database = home / "mlflow.db"
    tracking_uri = tracking_uri or os.environ.get(TRACKING_VARIABLE) or None
    if tracking_uri is None and not database.exists():
        return Check("mlflow", "ok", f"{database} will be made by the first sweep")
    try:
        moved = moved_from(database.absolute()) if tracking_uri is None else None
        store = open_store(home, tracking_uri)
        mended = f"; its files, in {moved} before, are found in {home.absolute()} now" if moved else ""
        return Check("mlflow", "ok", f"{store.uri} answers{mended}")
    except DatabaseError as error:
        return Check("mlflow", "failed", str(error), error.remedy)
    except TrackingError as error:
        remedy = "is the server running, and does the SSH tunnel stand (`ray attach cluster/gpu.yaml -p 5000`)?"
        return Check("mlflow", "failed", str(error), remedy if tracking_uri else "restore the file from a copy")


def _on_nodes(nodes: list[dict[str, Any]], answers: list[NodeAnswer]) -> Iterable[Check]:
    for reply in answers:
        if reply.error:
            remedy = f"install sm_search {version('sm-search')} in that node's Python; its Ray logs tell more"
            yield Check("node", "failed", f"{reply.address}: {reply.error}", remedy)
    answered = [reply for reply in answers if not reply.error]
    mine = {"python": sys.version.split()[0], **{name: version(name) for name in VERSIONED}}
    yield _versions(mine, answered)
    yield _gpus(nodes, answered)
    yield _disks(answered)


def _versions(mine: dict[str, str], answered: list[NodeAnswer]) -> Check:
    wrong = [
        f"{reply.address} has {name} {reply.answer[name]}, here {mine[name]}"
        for reply in answered
        for name in mine
        if reply.answer[name] != mine[name]
    ]
    shown = ", ".join(f"{name} {value}" for name, value in mine.items())
    if wrong:
        return Check("versions", "failed", "; ".join(wrong), "install the same constraints.txt on every node")
    return Check("versions", "ok", f"{shown} on {len(answered)} nodes")


def _gpus(nodes: list[dict[str, Any]], answered: list[NodeAnswer]) -> Check:
    """Ray counts what it was told at its start; torch counts what its CUDA can use."""
    offered: dict[str, float] = {}
    for node in nodes:
        address = node["NodeManagerAddress"]
        offered[address] = offered.get(address, 0) + node["Resources"].get("GPU", 0)
    wrong = [
        f"{reply.address}: Ray offers {offered[reply.address]:.3g}, torch sees {reply.answer['cuda']}"
        for reply in answered
        if offered[reply.address] > reply.answer["cuda"]
    ]
    if wrong:
        remedy = "`nvidia-smi` on that node; a torch built for its driver; or start Ray with the right --num-gpus"
        return Check("gpu", "failed", "; ".join(wrong), remedy)
    return Check("gpu", "ok", f"{sum(offered.values()):.3g} offered by Ray, as many seen by torch")


def _disks(answered: list[NodeAnswer]) -> Check:
    shown = {t.address: f"{t.answer['free_gib']:.0f} GiB free, {100 * t.answer['full']:.0f} % full" for t in answered}
    small = [t.address for t in answered if t.answer["free_gib"] < LEAST_FREE_GIB or t.answer["full"] > MOST_FULL]
    if small:
        remedy = f"free {LEAST_FREE_GIB} GiB where Ray keeps its session, below {100 * MOST_FULL:.0f} %, or --temp-dir"
        return Check("disk", "failed", "; ".join(f"{address}: {shown[address]}" for address in small), remedy)
    return Check("disk", "ok", "; ".join(f"{address}: {text}" for address, text in shown.items()))


def _storage(place: str, is_named: bool, mark: Mark, answers: list[NodeAnswer]) -> Iterable[Check]:
    remedy = "--storage must be an s3:// URI with rights for every node, or a folder that all machines share (NFS)"
    if not is_named:
        remedy = f"name one: {remedy}"
    if mark.error:
        yield Check("storage", "failed", f"{socket.gethostname()}: {mark.error}", remedy)
        return
    written = [reply.answer["own"] for reply in answers if not reply.error and "own" in reply.answer]
    wrong = [
        f"{reply.address}: {reply.answer['storage']}"
        for reply in answers
        if not reply.error and reply.answer["storage"]
    ]
    try:
        for name in written:
            Place(place).read(name)
    except (SmSearchError, OSError) as error:
        wrong.append(f"what a node wrote is not here: {error}")
    mark.clear(written)
    if wrong:
        yield Check("storage", "failed", "; ".join(wrong), remedy)
    else:
        yield Check("storage", "ok", f"{place}: written and read from {len(written)} nodes")
