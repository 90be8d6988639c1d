"""`lamella board`: a real TensorBoard, asked over HTTP."""

import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

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


def check_hparams(url: str) -> None:
    """See that HPARAMS has a column for what any of the four runs sets, and that each column can be filtered."""

    def ask(what: str, request: object) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(get(f"{url}/{what}?request={quote(json.dumps(request))}"))
        return answer

    columns = {info["name"]: info["type"] for info in ask("experiment", {})["hparamInfos"]}
    settings = ("optimizer.lr", "data.batch_size", "seed", "trainer.max_epochs", "loss.label_smoothing")
    assert {"network", "optimizer", "loss", *settings} <= set(columns)
    for name, kind in columns.items():
        number = kind == "DATA_TYPE_FLOAT64"
        wanted = {"filterInterval": {"minValue": -1, "maxValue": 1e6}} if number else {"filterRegexp": "."}
        request = {"colParams": [{"hparam": name, **wanted}], "allowedStatuses": ["STATUS_SUCCESS"], "sliceSize": 10}
        groups = ask("session_groups", request)["sessionGroups"]  # without a request that is refused, with status 400
        assert len(groups) == 4
    metrics = [value["name"]["tag"] for value in groups[0]["metricValues"]]
    assert {"val/accuracy", "when_best/val/accuracy"} <= set(metrics)


@pytest.mark.slow
def test_board_shows_the_runs_on_this_machine_only(lamella: Lamella, tmp_path: Path) -> None:
    short = ("trainer.max_epochs=1", "network=linear")
    lamella("train", "-m", "seed=1,2", *short)
    lamella("train", "-m", "loss.label_smoothing=0.0,0.1", "optimizer=sgd", *short)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lamella", "board", "--port", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=tmp_path, stdout=quiet, stderr=quiet)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: len(json.loads(get(f"{url}/data/plugin/scalars/tags") or "{}")) == 4, 60)
        tags = json.loads(get(f"{url}/data/plugin/scalars/tags"))
        for run, shown in tags.items():
            assert re.search(r"^default/(label_smoothing|seed)-[0-9a-f]{4}/\1=[\d.]+$", run)
            assert {"train/loss", "val/loss", "train/accuracy", "val/accuracy", "while_training/lr"} <= set(shown)
        check_hparams(f"{url}/data/plugin/hparams")
        listening = Path("/proc/net/tcp").read_text()
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
    finally:
        process.terminate()
        process.wait(30)
