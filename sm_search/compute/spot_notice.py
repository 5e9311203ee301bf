"""`python -m sm_search.compute.spot_notice`, on a spot instance: when AWS announces that it takes the instance back,
two minutes before, drain its Ray node.

Ray puts no new work on a drained node. The worker that is there goes on as long as it can, so that a rung within these
two minutes is kept; when the instance is gone, the trial goes on elsewhere from its last rung, and Ray Tune does not
count that as a failure of the trial.
"""

import datetime
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

from sm_search.compute.ray_internals import COMMAND_LINE

METADATA = "http://169.254.169.254"
"""Of every EC2 instance; the environment's SM_SEARCH_METADATA takes its place."""
EVERY_S = 5.0
TIMEOUT_S = 5.0
TOKEN_S = 60
EARLY_S = 2.0
"""The node's deadline for Ray before the announced one: it must have passed when the node is gone."""


def announced_end(metadata: str) -> datetime.datetime | None:
    """When the instance ends, if that is announced.

    Raises:
        OSError: the metadata service does not answer.
    """
    ask = urllib.request.Request(f"{metadata}/latest/api/token", method="PUT")
    ask.add_header("X-aws-ec2-metadata-token-ttl-seconds", str(TOKEN_S))
    with urllib.request.urlopen(ask, timeout=TIMEOUT_S) as answer:
        token = answer.read().decode()
    ask = urllib.request.Request(f"{metadata}/latest/meta-data/spot/instance-action")
    ask.add_header("X-aws-ec2-metadata-token", token)
    try:
        with urllib.request.urlopen(ask, timeout=TIMEOUT_S) as answer:
            notice = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:  # nothing is announced
            return None
        raise
    return datetime.datetime.fromisoformat(notice["time"])


def wait_for_notice(metadata: str) -> datetime.datetime:
    """When the instance ends, as soon as it is announced; a service that does not answer is asked again."""
    while True:
        try:
            end = announced_end(metadata)
        except OSError as error:
            print(f"{metadata}: {error}", file=sys.stderr, flush=True)
            end = None
        if end is not None:
            return end
        time.sleep(EVERY_S)


def drain(end: datetime.datetime) -> None:
    """Tell Ray that this node ends then."""
    left = (end - datetime.datetime.now(datetime.UTC)).total_seconds()
    line = [sys.executable, "-m", COMMAND_LINE, "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    line += ["--reason-message", f"spot notice: ends {end.isoformat()}"]
    line += ["--deadline-remaining-seconds", str(max(1, int(left - EARLY_S)))]
    subprocess.run(line, check=True)


if __name__ == "__main__":
    drain(wait_for_notice(os.environ.get("SM_SEARCH_METADATA", METADATA)))
    print("drained", flush=True)
