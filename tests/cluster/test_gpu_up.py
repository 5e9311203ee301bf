"""`cluster/gpu.yaml` from `ray up` to `ray down` without a cloud: moto is EC2, IAM and S3, instances are namespaces.

Instances come up when EC2 says so, with real sshd, and their power goes off when EC2 terminates them. Changed in the
file are the places marked SET, the idle time-out and a number of CPUs; on the machines, sudo and pip's downloads.
"""

import ctypes
import importlib.util
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.cluster.hosts import AWS, DATASET, ROOT, SPACE, Host, Network, aws, missing, network, wait_until

SAME_RIGHT = {"s3:ListBucket": "s3:HeadBucket", "s3:GetObject": "s3:HeadObject"}
"""What AWS grants with the first, and moto wants by its own name."""
EVERYTHING = {"Effect": "Allow", "Action": "*", "Resource": "*"}
CLONE_NEWNET = 0x40000000
ADMINISTRATOR = "administrator"
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.skipif(importlib.util.find_spec("moto") is None, reason="moto is not installed"),
]


@dataclass
class Cloud:
    """EC2 with machines behind it."""

    network: Network
    keys: dict[str, dict[str, str]] = field(default_factory=dict)
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)
    failure: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._threads = ThreadPoolExecutor(1, initializer=self._enter)

    def _enter(self) -> None:
        """This thread's sockets are those of the network from now on."""
        descriptor = os.open(f"/proc/{self.network.pid}/ns/net", os.O_RDONLY)
        assert ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

    def client(self, service: str, role: str) -> Any:
        import boto3

        return boto3.client(
            service,
            endpoint_url=AWS["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id=self.keys.get(role, self.network.environment)["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.keys.get(role, self.network.environment)["AWS_SECRET_ACCESS_KEY"],
        )

    def ask(self, service: str, call: str, **arguments: Any) -> Any:
        """One call of AWS's interface, as the administrator."""
        return self._threads.submit(lambda: getattr(self.client(service, ADMINISTRATOR), call)(**arguments)).result()

    def may_write(self, role: str, key: str) -> bool:
        """Whether whoever has a URL that this role presigned can write an object with it."""

        def answer() -> bool:
            where = {"Bucket": "lab", "Key": key}
            url = self.client("s3", role).generate_presigned_url("put_object", Params=where)
            try:
                with urlopen(Request(url, b"-", method="PUT")):
                    return True
            except HTTPError as error:
                if error.code == 403:
                    return False
                raise

        return self._threads.submit(answer).result()

    def check_rights(self) -> None:
        """From now on moto looks up who may do what."""
        url, header = f"{AWS['AWS_ENDPOINT_URL']}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        with self._threads.submit(lambda: urlopen(Request(url, b"0", header))).result() as answer:
            assert answer.status == 200

    def states(self) -> dict[str, str]:
        """Instance types of what was ever started, and where they are now."""
        return {one["InstanceId"]: one["State"]["Name"] for one in self.seen.values()}

    def running(self) -> list[str]:
        """The types of the running instances."""
        return sorted(i["InstanceType"] for i in self.seen.values() if i["State"]["Name"] == "running")

    def started(self) -> list[str]:
        """The types of all instances that ever ran: an idle one may be gone again."""
        return sorted(i["InstanceType"] for i in self.seen.values())

    def follow(self) -> None:
        """Give each instance a machine, and take it away."""
        from botocore.parsers import ResponseParserError

        try:
            while not self.ended.wait(1):
                with suppress(ResponseParserError):  # moto, while it makes an instance in another of its threads
                    for reservation in self.ask("ec2", "describe_instances")["Reservations"]:
                        for instance in reservation["Instances"]:
                            self._follow(instance)
        except BaseException as error:
            self.failure.append(error)
            raise

    def _follow(self, instance: dict[str, Any]) -> None:
        name, state = instance["InstanceId"], instance["State"]["Name"]
        if state == "running" and name not in self.hosts:
            key = self.network.folder / f"{instance['KeyName']}.pub"
            private = self.network.laptop / f".ssh/{instance['KeyName']}.pem"
            wait_until(lambda: private.is_file() and private.stat().st_size, "no key")
            key.write_bytes(subprocess.check_output(["ssh-keygen", "-y", "-f", private]))
            addresses = instance["PrivateIpAddress"], instance["PublicIpAddress"]
            self.roles[name] = instance["IamInstanceProfile"]["Arn"].rpartition("/")[2]
            self.hosts[name] = self.network.add(*addresses, key=key, environment=self.keys[self.roles[name]])
        if state == "terminated" and self.hosts[name].process.poll() is None:
            self.hosts[name].kill()
        self.seen[name] = instance


@contextmanager
def clouds() -> Iterator[Cloud]:
    with network(AWS) as lab, aws(lab):
        cloud = Cloud(lab)
        follower = threading.Thread(target=cloud.follow, daemon=True)
        follower.start()
        try:
            yield cloud
        finally:
            cloud.ended.set()
            follower.join()


def granted(file: str) -> list[dict[str, Any]]:
    """The statements of a policy as moto understands them: it knows conditions nowhere, and resources in S3 only."""
    text = (ROOT / "cluster" / file).read_text().replace("YOUR-BUCKET", "lab")
    for right, also in SAME_RIGHT.items():
        text = text.replace(f'"{right}"', f'"{right}", "{also}"')
    found: list[dict[str, Any]] = []
    for statement in json.loads(text)["Statement"]:
        statement.pop("Condition", None)
        resource = statement["Resource"] if "s3:::" in statement["Resource"] else "*"
        found.append({**statement, "Resource": resource})
    return found


def prepare_account(cloud: Cloud) -> str:
    """What the header of the file asks of an administrator; the id of the security group.

    From now on moto looks up who may do what. Instances have the keys of a user in the place of their role.
    """
    cloud.ask("s3", "create_bucket", Bucket="lab")
    group = cloud.ask("ec2", "create_security_group", GroupName="sm-search", Description="SSH from one address")
    policies = {"sm-search-head": "iam-head.json", "sm-search-worker": "iam-worker.json", ADMINISTRATOR: None}
    for name, file in policies.items():
        statements = granted(file) if file else [EVERYTHING]
        cloud.ask("iam", "create_instance_profile", InstanceProfileName=name)
        cloud.ask("iam", "create_user", UserName=name)
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        cloud.ask("iam", "put_user_policy", UserName=name, PolicyName=name, PolicyDocument=policy)
        key = cloud.ask("iam", "create_access_key", UserName=name)["AccessKey"]
        cloud.keys[name] = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    cloud.network.environment.update(cloud.keys[ADMINISTRATOR])
    cloud.check_rights()
    return str(group["GroupId"])


def written(cloud: Cloud, group: str) -> Path:
    """The file with what a user sets in it, and an idle time-out and a CPU node of the size of a test."""
    text = (ROOT / "cluster/gpu.yaml").read_text()
    for place, value in {
        "[sg-SET-ME]": f"[{group}]",
        "s3://SET-ME/sm-search": "s3://lab/sm-search",
        "idle_timeout_minutes: 10": "idle_timeout_minutes: 0.2",
        "resources: {CPU: 16}": "resources: {CPU: 2}",
    }.items():
        assert text.count(place) == 1, place
        text = text.replace(place, value)
    path = cloud.network.laptop / "gpu.yaml"
    path.write_text(text)
    return path


def test_up_simulate_sweep_idle_down() -> None:
    began = time.monotonic()

    def said(what: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {what}")

    with clouds() as cloud:
        lab = cloud.network
        file = written(cloud, prepare_account(cloud))
        lab.checkout()
        ray = lab.ray
        ray("get-auth-token", "--generate")
        ray("up", "-y", file)
        said("ray up")
        assert cloud.running() == ["m6i.xlarge"]
        (head,) = cloud.hosts.values()
        for role in ("sm-search-head", "sm-search-worker"):
            assert cloud.may_write(role, "sm-search/written")
            assert not cloud.may_write(role, "elsewhere/written")
        for name, text in {"dataset.yaml": DATASET, "space.yaml": f"{SPACE}resources: {{gpus: 0.5}}\n"}.items():
            (lab.laptop / name).write_text(text)
            ray("rsync-up", file, lab.laptop / name, f"~/{name}")

        # Simulation goes to CPU nodes, training to GPUs.
        line = (
            "cd ~/sm_search && sm-search simulate --config ~/dataset.yaml --out $SM_STORAGE/data/tiny --on pool=cpu"
            " --ray-address auto"
        )
        ray("exec", file, line)
        said("simulate")
        assert cloud.started() == ["c7i.4xlarge", "m6i.xlarge"]
        line = (
            "cd ~/sm_search && sm-search sweep --space ~/space.yaml --data $SM_STORAGE/data/tiny --storage $SM_STORAGE"
            " --ray-address auto --tracking-uri http://127.0.0.1:5000 --json > ~/sweep.json"
        )
        ray("exec", file, line)
        said("sweep")
        told = json.loads((head.home / "sweep.json").read_text())
        assert [trial["state"] for trial in told["trials"]] == ["complete", "complete"]
        assert cloud.started().count("g5.xlarge") == 1  # both trials share it
        keys = {o["Key"] for o in cloud.ask("s3", "list_objects_v2", Bucket="lab")["Contents"]}
        assert any(re.fullmatch(r"sm-search/studies/smoke/tune/.*/checkpoint_\d+/.*safetensors", key) for key in keys)
        assert any(key.startswith("sm-search/artifacts/") for key in keys)

        wait_until(lambda: cloud.running() == ["m6i.xlarge"], "idle nodes are not terminated", 120)
        said("idle nodes are gone")
        workers = [i for i in cloud.seen.values() if i["InstanceType"] != "m6i.xlarge"]
        assert {i["InstanceLifecycle"] for i in workers} == {"spot"}
        assert {cloud.roles[i["InstanceId"]] for i in workers} == {"sm-search-worker"}
        wait_until(lambda: "sm-search/mlflow.db" in backup_keys(cloud), "no copy of MLflow's database", 90)
        said("MLflow's database is in S3")

        ray("down", "-y", file)
        wait_until(lambda: not cloud.running(), "instances are left")
        said("ray down")
        assert set(cloud.states().values()) == {"terminated"}
        assert not cloud.failure


def backup_keys(cloud: Cloud) -> set[str]:
    found = cloud.ask("s3", "list_objects_v2", Bucket="lab", Prefix="sm-search/mlflow")
    return {one["Key"] for one in found.get("Contents", ())}
