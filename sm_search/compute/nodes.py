"""What the nodes of a Ray cluster see: tasks that run on each of them, whatever else it is busy with."""

import hashlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sm_search.config.errors import InputError
from sm_search.data.storage import absolute, is_uri

ANSWER_S = 90
"""How long a node may take: the first task of a session starts a Python on it."""


LOOK_S = 2.0
"""For how long the size of the cluster is believed: a search asks for it many times a second."""
ROUNDING = 1e-6
"""Ten trials of a tenth of a GPU fit on one."""


@dataclass(frozen=True)
class NodeAnswer:
    """What one node said; `error` is one line if it said nothing."""

    address: str
    answer: Any
    error: str | None = None


def other_nodes() -> list[dict[str, Any]]:
    """The living nodes of the session but the one of this process."""
    here = ray.get_runtime_context().get_node_id()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]


def has_label(label: str, value: str) -> bool:
    """Whether a living node of the session carries this Ray label."""
    return any(node["Alive"] and node["Labels"].get(label) == value for node in ray.nodes())


def capacity(cpus: float, gpus: float) -> int:
    """How many tasks of this size the living nodes hold at once."""
    return _capacity(cpus, gpus, int(time.monotonic() / LOOK_S))


@lru_cache(maxsize=1)
def _capacity(cpus: float, gpus: float, moment: int) -> int:
    wanted = {"CPU": cpus, "GPU": gpus}
    return sum(
        int(min(node["Resources"].get(name, 0) / share for name, share in wanted.items() if share) + ROUNDING)
        for node in ray.nodes()
        if node["Alive"]
    )


def ask_nodes(nodes: list[dict[str, Any]], question: Callable[..., Any], *arguments: Any) -> list[NodeAnswer]:
    """Call `question` on each node, on all at once; it takes no CPU from the work there."""
    ask = ray.remote(num_cpus=0, max_retries=0)(question)
    addresses = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        addresses[ask.options(scheduling_strategy=strategy).remote(*arguments)] = node["NodeManagerAddress"]
    done, _ = ray.wait(list(addresses), num_returns=len(addresses), timeout=ANSWER_S) if addresses else ([], [])
    answers = []
    for reference, address in addresses.items():
        if reference not in done:
            ray.cancel(reference, force=True)
            answers.append(NodeAnswer(address, None, f"no answer within {ANSWER_S} s"))
            continue
        try:
            answers.append(NodeAnswer(address, ray.get(reference)))
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            answers.append(NodeAnswer(address, None, " ".join(str(cause).split())[:300]))
    return answers


def require_shared(option: str, place: str | Path, cpus: float = 1, gpus: float = 0) -> None:
    """Refuse a folder of this machine where other nodes do the work: found at the start and not after the first rung.

    Args:
        cpus, gpus: what a piece of the work takes. Where this node has none and no other is up yet, one is asked for.

    Raises:
        InputError: a node of the session does not see the folder `place`, which `option` names.
    """
    nodes = other_nodes()
    if is_uri(place) or (not nodes and ray.cluster_resources().get("CPU", 0) >= cpus):
        return
    folder = Path(absolute(place))
    mark = folder / f".seen-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
        made = True
    except OSError:
        made = False
        mark = next((path for path in sorted(folder.glob("*")) if path.is_file()), folder)
    question = (_sees, str(mark), _identity(mark))
    try:
        answers = ask_nodes(nodes, *question) if nodes else [_ask_first_node(cpus, gpus, *question)]
    finally:
        if made:
            mark.unlink(missing_ok=True)
    blind = [answer for answer in answers if not answer.answer]
    if blind:
        why = f" ({blind[0].error})" if blind[0].error else ""
        raise InputError(
            f"{option} {place}: not seen by {len(blind)} of {len(answers)} other nodes, first {blind[0].address}{why}; "
            "on several machines it must be an s3:// URI or a folder that all of them share"
        )


def _ask_first_node(cpus: float, gpus: float, question: Callable[..., Any], *arguments: Any) -> NodeAnswer:
    """The answer of a node that can do the work; the autoscaler starts one."""
    return NodeAnswer("a worker", ray.get(ray.remote(num_cpus=cpus, num_gpus=gpus)(question).remote(*arguments)))


def _identity(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _sees(path: str, identity: str) -> bool:
    """Whether this node has the same file."""
    return Path(path).exists() and _identity(Path(path)) == identity
