"""What the watcher of a spot instance reads from the metadata service; tests/cluster/test_lost_nodes.py drains."""

import datetime
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm_search.compute import spot_notice
from sm_search.compute.spot_notice import announced_end, wait_for_notice
from tests.cluster.metadata import Service

NOTICE = '{"action": "terminate", "time": "2026-09-18T08:22:00Z"}'
END = datetime.datetime(2026, 9, 18, 8, 22, tzinfo=datetime.UTC)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path / "notice") as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield service
        service.shutdown()
        thread.join()


def test_nothing_is_announced_and_then_an_end(service: Service) -> None:
    assert announced_end(service.address) is None
    service.notice.write_text(NOTICE)
    assert announced_end(service.address) == END


def test_a_service_that_does_not_answer_is_asked_again(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[float] = []

    def later(seconds: float) -> None:
        asked.append(seconds)
        monkeypatch.undo()
        service.notice.write_text(NOTICE)

    monkeypatch.setattr(spot_notice.time, "sleep", later)
    monkeypatch.setattr(spot_notice, "announced_end", refused)
    assert wait_for_notice(service.address) == END
    assert asked == [spot_notice.EVERY_S]
    assert capsys.readouterr().err.splitlines()[0] == f"{service.address}: refused"


def refused(metadata: str) -> None:
    raise ConnectionRefusedError("refused")
