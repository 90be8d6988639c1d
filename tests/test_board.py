"""`lamella board`: a real TensorBoard, asked over HTTP."""

import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import Lamella
from programs import wait_until


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            text: str = response.read().decode()
            return text
    except (urllib.error.URLError, ConnectionError):
        return ""


@pytest.mark.slow
def test_board_shows_the_runs_on_this_machine_only(lamella: Lamella, tmp_path: Path) -> None:
    lamella("train", "-m", "seed=1,2", "trainer.max_epochs=1", "network=linear")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lamella", "board", "--port", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=tmp_path, stdout=quiet, stderr=quiet)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: len(json.loads(get(f"{url}/data/plugin/scalars/tags") or "{}")) == 2, 60)
        tags = json.loads(get(f"{url}/data/plugin/scalars/tags"))
        for run, shown in tags.items():
            assert re.search(r"^default/seed-[0-9a-f]{4}/seed=[12]$", run)
            assert {"train/loss", "val/loss", "train/accuracy", "val/accuracy", "while_training/lr"} <= set(shown)
        listening = Path("/proc/net/tcp").read_text()
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
    finally:
        process.terminate()
        process.wait(30)
