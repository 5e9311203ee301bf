"""The pictures of README.md and docs/ from what a demo left: `python docs/pictures.py outputs docs/images [STUDY]`.

Needs chromium (`apt-get install chromium`) and the development set-up.
"""

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

START_S = 120
COLUMNS = ("val_psnr_db", "val_ssim", "diffuse", "learning_rate", "p_uncond")
HIDDEN = ("Dataset", "Source", "Models")


def main(home: Path, out: Path, study: str = "demo") -> None:
    out.mkdir(parents=True, exist_ok=True)
    Image.open(home / "comparison.png").convert("RGB").quantize(256).save(out / "figure-1.png", optimize=True)
    with mlflow_ui(home) as address, sync_playwright() as browsers:
        browser = browsers.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 540})
        page.set_default_timeout(60_000)
        show_trials(page, f"{address}/#/experiments/1/runs?workflowType=machine_learning", study)
        page.screenshot(path=out / "mlflow-runs.png")
        page.set_viewport_size({"width": 1100, "height": 1040})
        page.goto((home / f"{study}.html").absolute().as_uri())
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
        page.screenshot(path=out / "report.png")
        browser.close()


def show_trials(page: Any, address: str, study: str) -> None:
    """MLflow's table of runs with a study unfolded and the columns that a newcomer would add."""
    page.goto(address)
    page.get_by_label("Close", exact=True).click()  # the assistant, which covers half of the page
    of_study = page.get_by_role("row").filter(has=page.get_by_role("link", name=study, exact=True))
    of_study.wait_for()  # before that there are no columns to choose from
    page.get_by_test_id("column-selection-dropdown").first.click()
    for name in (*HIDDEN, *COLUMNS):
        page.get_by_placeholder("Search columns").fill(name)
        titles = page.get_by_test_id("column-selector-tree").locator("[class$=tree-title]")
        titles.filter(has_text=re.compile(f"^{name}$")).click()
    page.get_by_test_id("column-selection-dropdown").first.click()
    of_study.get_by_role("button").first.click()
    page.get_by_text(re.compile("^(voxel|component)$")).first.wait_for()
    page.mouse.move(0, 0)


@contextmanager
def mlflow_ui(home: Path) -> Iterator[str]:
    """MLflow's pages of a home folder, as `make ui` shows them; their address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    address, home = f"http://127.0.0.1:{port}", home.absolute()
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", "127.0.0.1", "--port", port]
    command += ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", f"{home}/artifacts"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            begin = time.monotonic()
            while not answers(f"{address}/health"):
                if server.poll() is not None or time.monotonic() > begin + START_S:
                    raise SystemExit(f"{' '.join(command)}: does not answer")
                time.sleep(0.3)
            yield address
        finally:
            server.terminate()
            server.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
