"""A sweep as a Ray job: submitted through the cluster's jobs server, followed and stopped from anywhere.

The job is the same verb on the cluster's head, with the same space. It goes on without whoever submitted it.
"""

import asyncio
import json
import logging
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from sm_search.compute.ray_internals import CHATTY_LOGGERS
from sm_search.compute.session import require_listener
from sm_search.config.errors import InputError, SmSearchError

Announce = Callable[[str], None]

STUDY = "sm_search_study"
"""Metadata of a job: the study that it runs."""
STOP_S = 60
"""How long a stopped job may close its runs before Ray kills it."""
POLL_S = 0.5
HOME = '"${SM_SEARCH_HOME:-$HOME/sm_search/outputs}"'
"""In the head's shell: the home of a study whose user names none. That of a job itself ends with the job."""
RESULT, ERROR, NOISE = '{"study"', "error: ", "Running entrypoint for job "


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        state: Ray's word: SUCCEEDED, FAILED or STOPPED.
        error: what it said last of why; None if it said nothing.
        result: the study's result, if it came to one.
    """

    job: str
    state: str
    exit_status: int | None
    error: str | None
    result: dict[str, Any] | None

    def outcome(self) -> dict[str, Any]:
        """The result, or what the verb would have raised here.

        Raises:
            InputError, SmSearchError: the job failed, and said why.
            KeyboardInterrupt: it was stopped.
        """
        if self.result is not None:
            return self.result
        said = self.error or "said nothing of why; `ray job logs` has its whole log"
        if self.state == JobStatus.STOPPED or self.exit_status == 130:
            raise KeyboardInterrupt(f"job {self.job} was stopped: {said}")
        if self.exit_status == 2:
            raise InputError(said)
        raise SmSearchError(f"job {self.job} failed: {said}")


class JobServer:
    """The jobs server of a cluster, as `ray dashboard` brings it to this machine.

    Every method raises InputError, one line with the address, if the server does not answer or refuses.
    """

    def __init__(self, address: str) -> None:
        """Raises:
        InputError: nothing answers at `address`, it wants another token, or Ray is installed here without its jobs.
        """
        self.address = address
        try:
            parts = urlsplit(address)
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise InputError(f"--ray-address {address}: {error}") from None
        require_listener(address, host, port)
        for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
            os.environ.pop(name, None)  # Ray would take either in place of the address that it is given
        for name in CHATTY_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with self._asked():
            self._client = JobSubmissionClient(address)

    def submit(self, study: str, space_file: Path, options: Sequence[str], home: str | None = None) -> str:
        """Submit `sm-search sweep` on a space; the job's id, `sm-search-STUDY` or one with a number.

        Args:
            options: all other options of the verb.
            home: the study's home on the head.

        Raises:
            InputError: a job runs the study already.
        """
        with self._asked():
            jobs = self._client.list_jobs()
        running = [job for job in _of_study(jobs, study) if not job.status.is_terminal()]
        if running:
            raise InputError(
                f"study {study!r}: job {running[-1].submission_id} runs it already; `sweep --attach {study}` follows "
                f"it, `sweep --cancel {study}` stops it"
            )
        # Nothing else travels: the cluster has the code and reads the data itself.
        with tempfile.TemporaryDirectory() as folder, self._asked():
            shutil.copy(space_file, folder)
            return str(
                self._client.submit_job(
                    entrypoint=_entrypoint(f"./{space_file.name}", options, home),
                    submission_id=_free_id(f"sm-search-{study}", jobs),
                    metadata={STUDY: study},
                    runtime_env={"working_dir": folder, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}},
                )
            )

    def find(self, study: str) -> str:
        """The id of the job that was submitted last for a study.

        Raises:
            InputError: there is none; the message lists the studies that have one.
        """
        with self._asked():
            jobs = self._client.list_jobs()
        own = _of_study(jobs, study)
        if not own:
            others = sorted({(job.metadata or {}).get(STUDY, "") for job in jobs} - {""})
            raise InputError(f"study {study!r}: has no job at {self.address}; it has {', '.join(others) or 'none'}")
        return str(own[-1].submission_id)

    def follow(self, job_id: str, announce: Announce) -> Ended:
        """Announce a job's log line by line, from its beginning, until the job has ended."""
        with self._asked():
            asyncio.run(self._follow(job_id, announce))
        return self._ended(job_id)

    async def _follow(self, job_id: str, announce: Announce) -> None:
        import aiohttp  # there if the client is: it is no part of the least Ray

        announced, ended = 0, False
        while not ended:
            # A log that breaks off while its job runs is read again, less what was announced.
            ended = self._client.get_job_info(job_id).status.is_terminal()
            read, rest = 0, ""
            with suppress(RuntimeError, aiohttp.ClientError):
                async for chunk in self._client.tail_job_logs(job_id):
                    *lines, rest = (rest + chunk).split("\n")
                    for line in lines:
                        read += 1
                        if read > announced and not line.startswith((RESULT, ERROR, NOISE)):
                            announce(line)
                    announced = max(announced, read)
            if not ended:
                await asyncio.sleep(POLL_S)

    def cancel(self, job_id: str) -> tuple[Ended, bool]:
        """Stop a job and wait until it has closed its study's runs; how it ended, and whether it was running."""
        with self._asked():
            stopped = not self._client.get_job_info(job_id).status.is_terminal() and self._client.stop_job(job_id)
            deadline = time.monotonic() + 2 * STOP_S
            while not self._client.get_job_info(job_id).status.is_terminal():
                if time.monotonic() > deadline:
                    raise InputError(f"job {job_id}: does not end; `ray job stop {job_id}` may help")
                time.sleep(POLL_S)
        return self._ended(job_id), stopped

    def _ended(self, job_id: str) -> Ended:
        with self._asked():
            info = self._client.get_job_info(job_id)
            lines = self._client.get_job_logs(job_id).splitlines()
        result = next((json.loads(line) for line in reversed(lines) if line.startswith(RESULT)), None)
        error = next((line.removeprefix(ERROR) for line in reversed(lines) if line.startswith(ERROR)), None)
        if error is None and info.status == JobStatus.FAILED:
            error = f"exit status {info.driver_exit_code}" if info.driver_exit_code else _reason(info.message)
        return Ended(job_id, str(info.status), info.driver_exit_code, error, result)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn whatever the client throws inside into an InputError of one line."""
        try:
            yield
        except (RuntimeError, OSError, ValueError, RayError) as error:  # requests' errors are OSErrors
            if "ray[default]" in str(error):
                raise InputError("a job needs more of Ray on this machine: pip install 'ray[default]'") from None
            raise InputError(f"--ray-address {self.address}: {_reason(error)}") from None


def _entrypoint(space: str, options: Sequence[str], home: str | None) -> str:
    """What the shell on the head runs: one line, whose last process is the verb itself."""
    verb = shlex.join(["sm-search", "sweep", "--space", space, "--ray-address", "auto", "--json", *options])
    missing = "error: the cluster has no sm-search on its PATH: it is installed as cluster/*.yaml do it"
    ours = f"sm-search {version('sm-search')}"
    return (
        f'command -v sm-search > /dev/null || {{ echo "{missing}"; exit 2; }}; '
        f'theirs=$(sm-search --version); [ "$theirs" = "{ours}" ] || '
        f'echo "note: submitted by {ours}, and run by $theirs"; '
        f"exec {verb} --home {shlex.quote(home) if home else HOME}"
    )


def _of_study(jobs: Sequence[JobDetails], study: str) -> list[JobDetails]:
    """The jobs of a study, the last one last."""
    own = [job for job in jobs if job.submission_id and (job.metadata or {}).get(STUDY) == study]
    return sorted(own, key=lambda job: job.start_time or 0)


def _free_id(name: str, jobs: Sequence[JobDetails]) -> str:
    taken, number, free = {job.submission_id for job in jobs}, 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _reason(error: Any) -> str:
    """What the server said on one line; it answers some faults with a traceback, of which the last line says it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-1:] if "Traceback" in str(error) else lines)
