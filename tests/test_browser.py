"""TensorBoard in a real browser, after a real sweep: each tab shows what the runs wrote.

The screenshots in docs/ come from here: LAMELLA_WRITE_DOCS=1 keeps them.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
from playwright.sync_api import Page, TimeoutError, expect, sync_playwright
from programs import wait_until

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PICTURED = ("custom_scalars", "images", "hparams")
DOCS = Path(__file__).parents[1] / "docs"
# What each tab shows of the sweep, and the picture's name in the docs.
TABS = {
    "timeseries": ["train/accuracy", "val/accuracy"],
    "custom_scalars": ["accuracy", "loss"],
    "images": ["confusion", "mistakes", "samples", "weights"],
    "graphs": ["input", "Network", "output"],
    "histograms": ["activations/1", "gradients/1.bias", "weights"],
    "hparams": ["optimizer.lr", "best/val/accuracy"],
    "text": ["structure", "config"],
    "pr_curves": ["precision_recall/3"],
}

pytestmark = [
    pytest.mark.slow(80),  # all together
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.xdist_group("browser"),  # one for all tabs
]


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of TensorBoard and of the sweeps that it shows."""
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def board(directory: Path) -> Iterator[str]:
    """The address of a TensorBoard over the sweep of two runs."""
    options = ("optimizer.lr=1e-1,1e-2", "network=linear", "visuals=full", "trainer.max_epochs=5")
    programs.run(directory, "train", "-m", *options)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lamella", "board", "--port", str(port)]
    with (directory / "board.log").open("w") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
        wait_until(lambda: answers(port), 60)
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def page(board: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=FLAGS, viewport={"width": 1600, "height": 900}
        )
        yield context.pages[0]
        context.close()


@pytest.mark.parametrize("tab", TABS)
def test_tab(page: Page, board: str, tab: str) -> None:
    page.goto(f"{board}/?tagFilter=accuracy#{tab}", wait_until="domcontentloaded")
    page.reload(wait_until="domcontentloaded")
    for text in TABS[tab]:
        found = page.locator("svg text", has_text=text) if tab == "graphs" else page.get_by_text(text)
        found.locator("visible=true").first.wait_for(timeout=60_000)
    if os.environ.get("LAMELLA_WRITE_DOCS") == "1" and tab in PICTURED:
        page.wait_for_timeout(4000)
        page.screenshot(path=DOCS / f"board-{tab}.png")


def test_hparams_of_several_sweeps_are_filtered(page: Page, board: str, directory: Path) -> None:
    """After the tests of the tabs, whose pictures show one sweep."""
    short = ("network=linear", "visuals=none", "trainer.max_epochs=1")
    programs.run(directory, "train", "-m", "seed=1,2", "optimizer=sgd", "loss.label_smoothing=0.1", *short)
    answers: list[int] = []
    page.on("response", lambda response: answers.append(response.status) if "session_groups" in response.url else None)

    rows = page.get_by_text(re.compile(r"^default/.*=")).locator("visible=true")

    def reload() -> None:
        page.goto(f"{board}/#hparams", wait_until="domcontentloaded")
        page.reload(wait_until="domcontentloaded")

    def filters(value: str) -> bool:
        """Return True if the checkbox of a value hides the two runs with this value, and shows them again."""
        box = page.get_by_role("checkbox", name=value, exact=True)
        with contextlib.suppress(TimeoutError, AssertionError):
            for count in (2, 4):
                box.click(timeout=10_000)
                expect(rows).to_have_count(count, timeout=10_000)
            return True
        reload()  # a page that receives new runs while a box is clicked draws every row again
        return False

    def complete() -> bool:
        reload()
        with contextlib.suppress(AssertionError):
            expect(rows).to_have_count(4, timeout=10_000)
            return True
        return False

    wait_until(complete, 120)  # TensorBoard looks for new runs every few seconds
    wait_until(lambda: all(filters(value) for value in ("adam", "sgd")), 120)
    assert set(answers) == {200}
