"""A network of several machines on this one: Linux namespaces, each with its own addresses, processes, home and sshd.

All see the same files, but for each one's disk in /mnt: so the Python environment of the tests. `sudo`, `apt-get` and
the making of a virtual environment are replaced: there is no internet in there. Needs root, `ip`, `unshare`, `sshd`.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_S = 60
GATEWAY = "172.31.255.254"
AWS_PORT = 5999
AWS = {
    "AWS_ENDPOINT_URL": f"http://{GATEWAY}:{AWS_PORT}",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "MLFLOW_S3_ENDPOINT_URL": f"http://{GATEWAY}:{AWS_PORT}",
}
NEEDED = ("ip", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen", "rsync")

INIT = """
mount --bind {folder}/tmp-ray /tmp/ray
mount --bind {folder}/disk /mnt
mount --bind {folder}/profile.d /etc/profile.d
mount --bind {folder}/passwd /etc/passwd
mount -t tmpfs none /run && mkdir /run/sshd
until ip link set eth0 up 2> /dev/null; do sleep 0.05; done
ip link set lo up; ip address add {address}/16 dev eth0; {more}
ip route add default via {gateway}
exec {sshd} -D -e -f /dev/null -h {folder}/host_key -o AuthorizedKeysFile={folder}/authorized -o StrictModes=no \
    -o PasswordAuthentication=no -o UsePAM=no
"""

DATASET = """
name: tiny
grid: {size: [12, 12]}
orders: {max_x: 2, max_y: 2}
splits:
  train: [{core_diameter_nm: [20, 30], fx_khz: [10], nd: [9]}]
  validation: [{core_diameter_nm: [20], fx_khz: [20], nd: [9]}]
  test: [{core_diameter_nm: [25], fx_khz: [20], nd: [9]}]
"""
SPACE = """
study: smoke
training:
  steps: 40
  batch_size: 8
  backbone: {backbone: linear-basis, coefficients: 8, width: 16, blocks: 1}
  learning_rate: {float: [1.0e-3, 3.0e-3]}
schedule: {eta_max: {float: [0.0, 0.3]}}
budget: {trials: 2, first_rung: 40, reduction: 2, schedules: 2, images: 4}
"""

# Ray makes the environment of each node with `python3 -m venv` and pip, which have no internet in here.
PYTHON3 = """#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
mkdir -p "$3/bin" && printf '%s\\n' '#!/bin/sh' 'test -f pyproject.toml && test -f constraints.txt || exit 1' \
    'echo "$PWD $*" >> ~/pip.log' > "$3/bin/pip" && chmod +x "$3/bin/pip"
"""
SUDO = """#!/bin/sh
case "$*" in
    "tee /etc/profile.d/"*) exec "$@" ;;
    *apt-get*) echo "$*" >> ~/apt.log ;;
    *) echo "no sudo $*" >&2; exit 1 ;;
esac
"""


def missing() -> str:
    """Why these hosts cannot be had here; empty if they can."""
    if os.geteuid() != 0:
        return "namespaces with sshd need root"
    absent = [name for name in NEEDED if program(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def wait_until(sign: object, what: str, seconds: float = START_S) -> object:
    """The first true answer of `sign()`."""
    deadline = time.monotonic() + seconds
    while not (found := sign()):  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


def _namespaces(*kinds: str, script: str, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A shell in new namespaces: the process to kill, which takes all of them along, and the shell's id."""
    with log.open("ab") as file:
        outer = subprocess.Popen(
            ["unshare", *(f"--{kind}" for kind in kinds), "--fork", "--kill-child", "bash", "-c", script],
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    return outer, int(str(wait_until(lambda: children.read_text().split(), f"no namespace: {log}")[0]))  # type: ignore[index]


@dataclass
class Host:
    """One machine."""

    address: str
    folder: Path
    process: "subprocess.Popen[bytes]"
    pid: int
    port: str

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def processes(self, name: str) -> list[int]:
        """Its processes that are called so, seen from outside: to log in takes time that others could use."""
        found, namespace = [], os.readlink(f"/proc/{self.pid}/ns/pid")
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                called = (place / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                if name in called.split(" ")[0] and os.readlink(place / "ns/pid") == namespace:
                    found.append(int(place.name))
        return found

    def kill(self) -> None:
        """The power goes off."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@dataclass
class Network:
    """A switch with machines on it; `run` runs where an administrator's laptop would be."""

    folder: Path
    laptop: Path
    pid: int
    environment: dict[str, str]
    hosts: dict[str, Host] = field(default_factory=dict)

    @property
    def public_key(self) -> Path:
        return self.folder / "key.pub"

    def command(self, *arguments: object, cwd: Path | None = None) -> list[str]:
        inside = ["nsenter", "--net", "--mount", "--target", str(self.pid), f"--wd={cwd or self.folder}"]
        return [*inside, *map(str, arguments)]

    def run(
        self, *arguments: object, seconds: float = 240, check: bool = True, cwd: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            self.command(*arguments, cwd=cwd),
            env={"PATH": os.environ["PATH"], "HOME": str(self.laptop), **self.environment},
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{arguments}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
        return done

    def ssh(self, host: Host, line: str, seconds: float = 240, check: bool = True) -> str:
        """What a command in a login shell on a machine says on stdout."""
        options = ["-F", "/dev/null", "-i", self.folder / "key", "-o", "StrictHostKeyChecking=no"]
        options += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        command = f"bash --login -c {shlex.quote(line)}"
        return self.run("ssh", *options, f"ubuntu@{host.address}", command, seconds=seconds, check=check).stdout

    def plug(self, host: Host, state: str) -> None:
        """Pull a machine's cable out of the switch (`down`) or put it back (`up`)."""
        self.run("ip", "link", "set", host.port, state)

    def checkout(self) -> Path:
        """What a cluster file mounts, and a tiny dataset's and study's settings, on the laptop."""
        folder = self.laptop / "checkout"
        for name in ("sm_search", "search_spaces"):
            # Compiled kernels go along, as from a user's checkout; not what is being written just now.
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc*", "*.tmp.*"))
        for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, folder)
        return folder

    def ray(self, verb: str, *arguments: object, check: bool = True) -> str:
        """One of Ray's own commands, in the checkout."""
        command = (sys.executable, "-m", "ray.scripts.scripts", verb, *arguments)
        done = self.run(*command, cwd=self.laptop / "checkout", check=check)
        return done.stdout + done.stderr

    def add(
        self,
        address: str,
        *more_addresses: str,
        key: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Host:
        """A machine with sshd; its profile has the tests' Python and what the environment says."""
        folder = self.folder / address
        for name in ("home", "disk", "tmp-ray", "profile.d", "bin"):
            (folder / name).mkdir(parents=True)
        for name, text in {"python3": PYTHON3.format(python=sys.executable), "sudo": SUDO}.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        (folder / "home/.bashrc").touch()
        exports = {"PATH": f"{folder}/bin:{Path(sys.executable).parent}:$PATH", "PYTHONPATH": "$HOME/sm_search"}
        exports |= {
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",
            "TERM": "dumb",
            **self.environment,
            **(environment or {}),
        }
        (folder / "profile.d/00-tests.sh").write_text("".join(f'export {k}="{v}"\n' for k, v in exports.items()))
        passwd = Path("/etc/passwd").read_text()
        passwd += "" if "\nsshd:" in passwd else "sshd:x:74:65534::/run/sshd:/usr/sbin/nologin\n"
        # First, since ssh looks up the home of whoever has this number.
        (folder / "passwd").write_text(f"ubuntu:x:0:0::{folder}/home:/bin/bash\n{passwd}")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host_key"], check=True)
        shutil.copy(key or self.public_key, folder / "authorized")
        more = "; ".join(f"ip address add {other}/32 dev eth0" for other in more_addresses) or "true"
        script = INIT.format(folder=folder, address=address, more=more, gateway=GATEWAY, sshd=program("sshd"))
        kinds = ("net", "mount", "pid", "mount-proc")
        process, pid = _namespaces(*kinds, script=script, log=folder / "log")
        port = f"port{len(self.hosts)}"
        host = self.hosts[address] = Host(address, folder, process, pid, port)
        link = ["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(pid)]
        for line in (link, ["ip", "link", "set", port, "master", "switch", "up"]):
            self.run(*line)
        for other in more_addresses:
            self.run("ip", "route", "add", other, "via", address)
        wait_until(lambda: "Server listening" in (folder / "log").read_text(), f"no sshd: {folder}/log")
        return host


@contextmanager
def aws(lab: Network) -> Iterator[None]:
    """moto's AWS for the body, at the gateway."""
    module, place = "tests.cluster.aws_server", ("-H", "0.0.0.0", "-p", str(AWS_PORT))
    command = lab.command(sys.executable, "-m", module, *place, cwd=ROOT)
    log = lab.folder / "moto.log"
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_until(lambda: "Running on" in log.read_text(), "moto does not start")
        yield
    finally:
        server.kill()
        server.wait()


@contextmanager
def network(environment: Mapping[str, str]) -> Iterator[Network]:
    """Up for the body; everything in it ends with the body.

    Args:
        environment: what all machines have in theirs.
    """
    folder = Path(tempfile.mkdtemp(prefix="sm-hosts-"))
    Path("/tmp/ray").mkdir(exist_ok=True)
    laptop = folder / "laptop"
    (laptop / ".ssh").mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    (folder / "tmp-ray").mkdir()
    script = f"mount --bind {folder}/tmp-ray /tmp/ray && exec sleep infinity"
    process, pid = _namespaces("net", "mount", script=script, log=folder / "log")
    found = Network(folder, laptop, pid, dict(environment))
    try:
        for line in (
            "ip link set lo up",
            "ip link add switch type bridge",
            f"ip address add {GATEWAY}/16 dev switch",
            "ip link set switch up",
        ):
            found.run(*line.split())
        yield found
    finally:
        for host in found.hosts.values():
            host.kill()
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
