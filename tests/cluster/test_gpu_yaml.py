"""`cluster/gpu.yaml` is what Ray accepts, closed to the world, and pinned to the versions we test."""

import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster/gpu.yaml").read_text()
HEADER = TEXT.split("\n\n", 1)[0]
COMMAND_KEYS = ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The file with Ray's defaults filled in, as `ray up` sees it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    return prepare_config(yaml.safe_load(TEXT))


def commands(config):
    return [command for key in COMMAND_KEYS for command in config[key]]


def find(commands, part):
    (found,) = {command for command in commands if part in command}
    return found


def test_ray_accepts_it(config):
    validate_config(config)


def test_shell_commands_parse(config):
    for command in commands(config):
        result = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, ""), command


def test_workers_are_spot_and_start_from_none(config):
    head = config["head_node_type"]
    assert "InstanceMarketOptions" not in config["available_node_types"][head]["node_config"]
    workers = {name: node for name, node in config["available_node_types"].items() if name != head}
    for node in workers.values():
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert node["min_workers"] == 0
    assert workers["gpu"]["resources"]["GPU"] == 1
    assert sum(node["max_workers"] for node in workers.values()) == config["max_workers"]
    assert config["idle_timeout_minutes"] > 0


def test_images_are_looked_up_by_ec2_and_all_have_the_same_ubuntu(config):
    for node in config["available_node_types"].values():
        assert re.fullmatch(r"resolve:ssm:/aws/service/\S*24\.04/\S*ami-id", node["node_config"]["ImageId"])


def test_ray_adds_no_rule_to_our_security_group(config):
    pytest.importorskip("boto3", reason="Ray's AWS provider needs boto3")
    from ray.autoscaler._private.aws.config import _configure_security_group, _create_default_inbound_rules

    # The reason for a group of our own: the rules that Ray gives to its groups.
    assert any(rule.get("IpRanges") == [{"CidrIp": "0.0.0.0/0"}] for rule in _create_default_inbound_rules({"sg-1"}))
    before = yaml.safe_dump(config)
    assert yaml.safe_dump(_configure_security_group(config)) == before
    assert "security_group" not in config["provider"]


def test_documented_ingress_is_ssh_from_one_address_and_the_group_itself():
    rules = re.findall(r"authorize-security-group-ingress --group-id sg-… (.*)", HEADER)
    assert rules == ["--protocol tcp --port 22 --cidr YOUR.IP.ADD.RESS/32", "--protocol all --source-group sg-…"]


@pytest.mark.parametrize("name", ["head", "worker"])
def test_iam_policies_name_each_action_and_only_our_bucket(name):
    policy = json.loads((ROOT / f"cluster/iam-{name}.json").read_text())
    assert policy["Version"] == "2012-10-17"
    allowed = {}
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        actions = statement["Action"]
        for action in [actions] if isinstance(actions, str) else actions:
            assert "*" not in action
            allowed.setdefault(action, []).append(statement)
    buckets = {s["Resource"] for action, found in allowed.items() if action.startswith("s3:") for s in found}
    assert buckets == {"arn:aws:s3:::YOUR-BUCKET", "arn:aws:s3:::YOUR-BUCKET/sm-search/*"}
    if name == "worker":
        assert {action.partition(":")[0] for action in allowed} == {"s3"}
        return
    # The head ends only what this cluster started, and hands on no role but the workers'.
    (end,) = allowed["ec2:TerminateInstances"]
    cluster = yaml.safe_load(TEXT)["cluster_name"]
    assert end["Condition"] == {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": cluster}}
    (hand,) = allowed["iam:PassRole"]
    assert hand["Resource"].endswith(":role/sm-search-worker")
    assert all("Condition" in statement for statement in allowed["ec2:CreateTags"])


def test_dashboard_and_mlflow_listen_on_loopback(config):
    assert "--dashboard-host=127.0.0.1" in find(commands(config), "ray start --head")
    assert "--host 127.0.0.1" in find(commands(config), "mlflow server")
    assert "0.0.0.0" not in yaml.safe_dump(config)


def test_every_node_has_the_token_and_asks_for_it(config):
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for key in ("head_setup_commands", "worker_setup_commands"):
        assert "RAY_AUTH_MODE=token" in find(config[key], "/etc/profile.d/")


def test_every_install_is_constrained_and_none_is_nightly(config):
    installs = [command for command in commands(config) if "pip install" in command]
    assert len(installs) == 2  # the one of the head, and the same of the workers
    assert all("pip install -q -c constraints.txt -e '.[cluster]'" in command for command in installs)
    assert not re.search(r"\.whl|ray-wheels|nightly|https?://", yaml.safe_dump(config))


def test_bucket_is_stated_once(config):
    assert {match for command in commands(config) for match in re.findall(r"s3://\S+", command)} == {
        "s3://SET-ME/sm-search"
    }
    assert "$SM_STORAGE/artifacts" in find(commands(config), "mlflow server")
    assert yaml.safe_dump(yaml.safe_load(TEXT)).count("s3://") == 1


def test_mounts_are_files_of_the_checkout(config):
    local = {path for path in config["file_mounts"].values() if not path.startswith("~")}
    assert local == {"sm_search", "search_spaces", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    assert not [path for path in local if not (ROOT / path).exists()]


def test_a_new_head_continues_with_the_saved_mlflow_database(config, tmp_path):
    """The file's own commands, with a folder in the place of the bucket."""
    (tmp_path / "bucket").mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def shell(command, home):
        (tmp_path / home).mkdir(exist_ok=True)
        env = {"HOME": str(tmp_path / home), "PATH": path, "SM_STORAGE": str(tmp_path / "bucket")}
        subprocess.run(["bash", "-c", command], env=env, cwd=tmp_path / home, check=True)

    restore = find(commands(config), "get_file_info")
    save = re.search(r"do (.*) done'", find(commands(config), "while sleep")).group(1)

    shell(restore, "first")
    database = tmp_path / "first/mlflow/mlflow.db"
    assert not database.exists()  # the very first head starts without one
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE runs AS SELECT 'kept' AS name")
    connection.close()
    shell("cd ~/mlflow; " + save, "first")

    shell(restore, "second")
    connection = sqlite3.connect(tmp_path / "second/mlflow/mlflow.db")
    assert connection.execute("SELECT name FROM runs").fetchall() == [("kept",)]
    connection.close()


@pytest.mark.cluster
def test_mlflow_server_starts_as_written(config, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = find(commands(config), "mlflow server")
    server = re.search(r"mlflow server .*?(?= >)", command).group().replace("--port 5000", f"--port {port}")
    env = os.environ | {"SM_STORAGE": str(tmp_path / "bucket"), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    arguments = shlex.split(server.replace("$SM_STORAGE", env["SM_STORAGE"]))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], env=env, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, seconds=90)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
    assert (tmp_path / "mlflow.db").stat().st_size > 0


def wait_for(url, process, seconds):
    """Return when `url` answers 200."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no answer from {url}, exit status {process.poll()}")


def test_every_entry_says_why():
    lines = TEXT.splitlines()

    def entries(node):
        """The lines on which an entry of a block mapping or block list begins."""
        if isinstance(node, yaml.ScalarNode) or node.flow_style:
            return
        for entry in node.value:
            first, child = entry if isinstance(node, yaml.MappingNode) else (entry, entry)
            yield first.start_mark.line
            yield from entries(child)

    silent = [lines[line] for line in entries(yaml.compose(TEXT)) if not lines[line - 1].lstrip().startswith("#")]
    assert silent == []
