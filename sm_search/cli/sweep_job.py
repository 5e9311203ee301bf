"""`sweep` as a Ray job: submitted, followed and cancelled from a machine that reaches the cluster's jobs server."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sm_search.api.defaults import default_home
from sm_search.cli.output import Output
from sm_search.config.errors import InputError

if TYPE_CHECKING:
    from sm_search.compute.jobs import JobServer

OF_A_SWEEP = ("space", "data", "resume", "while_simulating", "storage", "warm_start", "dry_run", "tracking_uri")


def is_job(options: Namespace) -> bool:
    """Whether a `sweep` is about a Ray job; a dry run is always here."""
    server = (options.ray_address or "").startswith(("http://", "https://"))
    return bool(options.attach or options.cancel or (server and not options.dry_run))


def sweep_as_job(options: Namespace, output: Output) -> dict[str, Any]:
    """Submit a sweep and follow it, follow one again, or stop one."""
    study = options.attach or options.cancel
    if study:
        verb = "--attach" if options.attach else "--cancel"
        if not (options.ray_address or "").startswith(("http://", "https://")):
            raise InputError(f"{verb} {study}: needs the cluster's jobs server, --ray-address http://HOST:PORT")
        more = next((name for name in OF_A_SWEEP if getattr(options, name)), None)
        if more:
            raise InputError(f"{verb} {study}: takes no --{more.replace('_', '-')}")
    else:
        _check_places(options)

    from sm_search.compute.jobs import JobServer
    from sm_search.search.space.space_file import find_space, load_space

    if options.cancel:
        return _cancelled(JobServer(options.ray_address), study, output)
    if options.attach:
        server = JobServer(options.ray_address)
        return _followed(server, study, server.find(study), output)
    study = load_space(options.space).study
    server = JobServer(options.ray_address)
    home = None if options.home == default_home() else str(options.home)
    job = server.submit(study, find_space(options.space), _for_the_job(options), home)
    output.progress(f"job {job} submitted to {options.ray_address}")
    return _followed(server, study, job, output)


def _check_places(options: Namespace) -> None:
    """A job reads and writes on the cluster: a relative path would be another place there."""
    for name in ("space", "data"):
        if not getattr(options, name):
            raise InputError(f"--{name} is missing")
    home = None if options.home == default_home() else options.home
    for name, place in (("data", options.data), ("storage", options.storage), ("home", home)):
        if place and "://" not in str(place) and not Path(place).is_absolute():
            raise InputError(f"--{name} {place}: a job runs on the cluster: must be a URI or an absolute path there")
    if "@" in (options.tracking_uri or "").partition("://")[2].partition("/")[0]:
        raise InputError(
            "--tracking-uri: whoever sees a job sees its options: put no password there, but set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where the cluster's head is started"
        )


def _for_the_job(options: Namespace) -> list[str]:
    """What the verb on the cluster gets besides space, address and home."""
    given = ["--data", options.data]
    for flag in ("resume", "while_simulating"):
        given += [f"--{flag.replace('_', '-')}"] if getattr(options, flag) else []
    for name, value in (("--storage", options.storage), ("--tracking-uri", options.tracking_uri)):
        given += [name, value] if value else []
    for study in options.warm_start or ():
        given += ["--warm-start", study]
    return given


def _followed(server: "JobServer", study: str, job: str, output: Output) -> dict[str, Any]:
    try:
        ended = server.follow(job, output.progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"detached: job {job} goes on; `sm-search sweep --ray-address {server.address} --attach {study}` follows "
            f"it again, `--cancel {study}` stops it"
        ) from None
    result = ended.outcome()
    output.trials(result)
    return result


def _cancelled(server: "JobServer", study: str, output: Output) -> dict[str, Any]:
    ended, was_running = server.cancel(server.find(study))
    if was_running:
        silent = "it said nothing more; `sweep --resume` closes what runs it left open, and continues it"
        output.result(f"job {ended.job} is stopped: {ended.error or silent}")
    else:
        output.result(f"job {ended.job} had ended already: {ended.state}")
    return {"study": study, "job": ended.job, "state": ended.state, "said": ended.error}
