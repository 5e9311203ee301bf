"""Verbs on clusters: doctor."""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from sm_search.cli.output import Output
from sm_search.cli.parsing import Adder, add_ray, add_store, place, ray_address


def add_verbs(add: Adder) -> None:
    p = add("doctor", doctor, "Check cluster, storage, MLflow, versions, GPUs and disks before a sweep.")
    p.add_argument(
        "--storage",
        type=place,
        metavar="URI",
        help="folder or s3:// URI for sweep --storage (default: the home folder)",
    )
    add_ray(p)
    add_store(p)


def doctor(options: Namespace, output: Output) -> dict[str, Any]:
    from sm_search.compute.doctor import examine

    checks = examine(ray_address(options, output), options.storage, options.home, options.tracking_uri)
    for check in checks:
        output.result(f"{check.status:8}{check.name:10}{check.found}")
        if check.status == "failed":
            output.result(f"{'':18}→ {check.remedy}")
    failed = sum(check.status == "failed" for check in checks)
    return {"checks": [asdict(check) for check in checks], "exit_status": 2 if failed else 0}
