"""Trackers: what an MLflow server, the files of W&B and the CSV files hold of a run, also after either died."""

import csv
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import programs
import pytest
import yaml
from conftest import Lamella
from programs import Program, wait_until

from lamella.tracking import follower

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}

SHORT = ("network=linear", "trainer.max_epochs=3", "device.threads=1", "~visuals.graph", "data.batch_size=400")
ENDLESS = (*SHORT[:1], *SHORT[2:], "trainer.max_epochs=1000000")


class Server:
    """A real MLflow server on the loopback interface, which can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.directory = f"http://127.0.0.1:{self.port}", directory
        self.start()

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self.directory}/mlflow.db"]
        store += ["--artifacts-destination", str(self.directory / "artifacts")]
        with (self.directory / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *store, "--port", str(self.port), "--workers", "1"],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        wait_until(self.answers, 180)

    def answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
            return bool(response.status == 200)
        return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def get(self, path: str, **fields: object) -> Any:
        """Ask MLflow's REST API: fields that are given are posted."""
        request = urllib.request.Request(f"{self.url}/api/2.0/mlflow/{path}")
        if fields:
            request.data = json.dumps(fields).encode()
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """Return the runs of an experiment: id, name, status, params, tags, metrics, and steps of the loss."""
        found = self.get(f"experiments/get-by-name?experiment_name={experiment}")["experiment"]["experiment_id"]
        listed = self.get("runs/search", experiment_ids=[found]).get("runs", [])
        return [
            {
                "id": one["info"]["run_id"],
                "name": one["info"]["run_name"],
                "status": one["info"]["status"],
                **{
                    part: {item["key"]: item["value"] for item in one["data"].get(part, [])}
                    for part in ("params", "tags", "metrics")
                },
            }
            for one in listed
        ]

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        found = self.get(f"metrics/get-history?run_id={run_id}&metric_key={metric}&max_results=1000")
        return [(int(item.get("step", 0)), item["value"]) for item in found.get("metrics", [])]

    def files(self, run_id: str, folder: str = "") -> dict[str, int]:
        """Return the artifacts of a run, with their sizes in bytes."""
        found = self.get(f"artifacts/list?run_id={run_id}&path={folder}").get("files", [])
        files = {item["path"]: int(item["file_size"]) for item in found if not item["is_dir"]}
        for item in found:
            files |= self.files(run_id, item["path"]) if item["is_dir"] else {}
        return files


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("mlflow"))
    yield started
    started.kill()


def the_run(name: str) -> Path:
    [path] = Path("outputs", name).glob("*/run.json")
    return path.parent


def record(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((path / "run.json").read_text())
    return loaded


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def sent(path: Path, tracker: str) -> dict[str, Any]:
    file = path / "tracking.json"
    return dict(json.loads(file.read_text()).get(tracker, {})) if file.exists() else {}


def followers(place: Path) -> list[str]:
    """Return the processes that mirror runs of a working directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = file.read_bytes().decode(errors="replace").split("\0")
            found += [file.parent.name] * (
                "lamella.tracking.follower" in words and (file.parent / "cwd").readlink() == place
            )
    return found


def nobody_is_left() -> None:
    wait_until(lambda: not followers(Path.cwd()), 120)


@pytest.mark.slow(12)
@pytest.mark.xdist_group("mlflow")
def test_mlflow_has_everything_of_a_run(lamella: Lamella, server: Server) -> None:
    chosen = ("tracking=[mlflow,csv]", f"tracking.mlflow.url={server.url}", "tracking.mlflow.checkpoint=true")
    result = lamella("train", *SHORT, *chosen, "name=whole")
    assert result.status == 0, result.err
    nobody_is_left()
    path = the_run("whole")
    assert lamella("sync", str(path), "--to", "mlflow").status == 0  # where the run was shorter than an import
    [run] = server.runs("whole")
    config, fields = yaml.safe_load((path / "config.yaml").read_text()), record(path)
    assert (run["name"], run["status"]) == (path.name, "FINISHED")
    assert run["params"]["optimizer.lr"] == str(config["optimizer"]["lr"])
    assert run["params"]["network.layers.1.Linear"] == "10"
    assert run["tags"]["lamella.overrides"].split() == fields["overrides"]
    assert run["tags"]["lamella.environment.torch"] == fields["environment"]["torch"]
    for name in ("train/loss", "val/accuracy", "lr", "seconds"):
        expected = [(int(line["epoch"]), line[name]) for line in lines(path)]
        assert server.history(run["id"], name) == expected
    assert server.history(run["id"], "test/loss") == [(fields["best_epoch"], fields["metrics"]["test/loss"])]
    assert run["metrics"]["when_best/val/loss"] == fields["metrics"]["val/loss"]
    files = server.files(run["id"])
    for name in ("run.json", "config.yaml", "metrics.jsonl", "log.txt", "checkpoints/best.ckpt"):
        assert files[name] == (path / name).stat().st_size, name
    pictures = {f"pictures/{tag}/epoch-{epoch:03}.png" for tag in ("samples", "confusion") for epoch in (1, 2, 3)}
    assert pictures <= files.keys()

    with (path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val/loss"]) for row in rows] == [line["val/loss"] for line in lines(path)]
    assert float(rows[fields["best_epoch"] - 1]["test/accuracy"]) == fields["metrics"]["test/accuracy"]

    again = lamella("sync", str(path), "--to", "mlflow")
    assert (again.status, again.out) == (0, f"{path}: nothing new for {sent(path, 'mlflow')['place']}\n")
    (path / "tracking.json").unlink()  # as if the process had died before it could remember what it has sent
    assert lamella("sync", str(path), "--to", "mlflow").status == 0
    assert [one["id"] for one in server.runs("whole")] == [run["id"]]
    assert len(server.history(run["id"], "train/loss")) == 3


@pytest.mark.slow(15)
@pytest.mark.xdist_group("mlflow")
def test_a_server_that_dies_gets_the_rest_later(lamella: Lamella, server: Server, tmp_path: Path) -> None:
    program = Program(tmp_path, "train", *ENDLESS, "tracking=mlflow", f"tracking.mlflow.url={server.url}", "name=dies")
    wait_until(lambda: list(Path("outputs/dies").glob("*/run.json")), 120, program)
    path = the_run("dies")
    wait_until(lambda: sent(path, "mlflow").get("epochs", 0) > 0, 120, program)
    server.kill()
    try:
        wait_until(lambda: sent(path, "mlflow")["error"], 120, program)
        seen = len(lines(path))
        wait_until(lambda: len(lines(path)) > seen + 2, 60, program)
        program.send_signal(signal.SIGINT)
        assert program.wait() == 130
        nobody_is_left()
        assert f"tracking: mlflow was not reached ([Errno 111] Connection refused); lamella sync {path}" in program.err
        failed = lamella("sync", str(path), "--to", "mlflow")
        assert failed.status == 1
        assert failed.err.startswith(f"error: {path}: mlflow was not reached ([Errno 111] Connection refused)\n")
    finally:
        server.start()
    epochs = len(lines(path))
    result = lamella("sync", str(path), "--to", "mlflow")
    assert result.status == 0, result.err
    [run] = server.runs("dies")
    assert run["status"] == "KILLED"
    server.get("runs/update", run_id=run["id"], status="RUNNING")  # as if it was killed twice in one epoch
    assert lamella("sync", str(path), "--to", "mlflow").status == 0
    assert server.runs("dies")[0]["status"] == "KILLED"

    resumed = lamella("resume", str(path), f"trainer.max_epochs={epochs + 2}")
    assert resumed.status == 0, resumed.err
    nobody_is_left()
    assert lamella("sync", str(path), "--to", "mlflow").status == 0
    [same] = server.runs("dies")
    assert (same["id"], same["status"]) == (run["id"], "FINISHED")
    assert server.history(run["id"], "val/loss") == [(int(line["epoch"]), line["val/loss"]) for line in lines(path)]


@pytest.mark.slow(12)
@pytest.mark.xdist_group("mlflow")
def test_a_fused_sweep_is_a_parent_and_its_children(lamella: Lamella, server: Server) -> None:
    chosen = ("tracking=mlflow", f"tracking.mlflow.url={server.url}", "name=swept", "hydra/launcher=fused")
    programs.run(Path(), "train", "-m", "seed=1,2", *SHORT, *chosen)
    nobody_is_left()
    [sweep] = Path("outputs/swept").iterdir()
    for tracker in ("mlflow", "wandb"):
        result = lamella("sync", str(sweep), "--to", tracker)
        assert result.status == 0, result.err
    runs = {run["name"]: run for run in server.runs("swept")}
    assert runs.keys() == {"seed=1", "seed=2", sweep.name}
    parent = runs.pop(sweep.name)
    assert {run["tags"]["mlflow.parentRunId"] for run in runs.values()} == {parent["id"]}
    assert {run["status"] for run in (parent, *runs.values())} == {"FINISHED"}
    assert {"sweep.json", "leaderboard.csv"} <= server.files(parent["id"]).keys()
    groups = [item.run.run_group for name in runs for item in offline(sweep / name) if item.HasField("run")]
    assert set(groups) == {sweep.name}
    assert lamella("sync", str(sweep / "seed=1"), "--to", "mlflow").out.startswith(f"{sweep / 'seed=1'}: nothing new")

    plan = (sweep / "plan.jsonl").read_text()
    (sweep / "plan.jsonl").write_text(plan + plan.splitlines()[0].replace('"seed=1"', '"never"', 1) + "\n")
    assert lamella("sync", str(sweep), "--to", "mlflow").status == 0
    assert {run["status"] for run in server.runs("swept") if run["name"] == sweep.name} == {"KILLED"}
    (sweep / "plan.jsonl").write_text("{}\n")
    failed = lamella("sync", str(sweep), "--to", "mlflow")
    assert (failed.status, failed.out.count("nothing new")) == (1, 2)
    assert sent(sweep, "mlflow")["error"] in failed.err
    (sweep / "plan.jsonl").write_text(plan)
    assert lamella("sync", str(sweep), "--to", "mlflow").status == 0
    assert sent(sweep, "mlflow")["error"] is None


def offline(path: Path) -> list[Any]:
    """Return the records in the files that W&B has written for a run: those of its format, in the log of LevelDB."""
    protocol: Any = import_module("wandb.proto.wandb_internal_pb2")
    key, found = json.loads((path / "tracking.json").read_text())["key"], []
    for file in sorted(Path("wandb").glob(f"offline-run-*/run-{key}.wandb")):
        content, whole, position = file.read_bytes(), b"", 7  # after the header of W&B
        while position + 7 <= len(content):
            room = 32768 - position % 32768
            if room < 7:  # the rest of a block
                position += room
                continue
            _, length, kind = struct.unpack_from("<IHB", content, position)
            whole += content[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # whole, or the last part
                item = protocol.Record()
                item.ParseFromString(whole)
                found.append(item)
                whole = b""
    return found


def rows(items: list[Any]) -> list[dict[str, Any]]:
    """Return the rows of the history, each of which has the metrics of an epoch."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in one.history.item}
        for one in items
        if one.HasField("history")
    ]


@pytest.mark.slow(8)
def test_wandb_offline_has_a_run_that_was_resumed(lamella: Lamella) -> None:
    result = lamella("train", *SHORT, "tracking=wandb", "name=offline")
    assert result.status == 0, result.err
    nobody_is_left()
    path = the_run("offline")
    assert lamella("sync", str(path), "--to", "wandb").status == 0
    assert lamella("resume", str(path), "trainer.max_epochs=5").status == 0
    nobody_is_left()
    assert lamella("sync", str(path), "--to", "wandb").status == 0
    items = offline(path)
    history = [row for row in rows(items) if "train/loss" in row]
    assert [(row["_step"], row["val/loss"]) for row in history] == [
        (int(line["epoch"]), line["val/loss"]) for line in lines(path)
    ]
    assert {row["confusion/_type"] for row in history} == {"image-file"}
    first, *others = [item.run for item in items if item.HasField("run")]
    assert {one.run_id for one in others} <= {first.run_id}
    assert (first.project, first.display_name) == ("offline", path.name)
    config = {item.key: json.loads(item.value_json) for item in first.config.update}
    assert config["optimizer"] == yaml.safe_load((path / "config.yaml").read_text())["optimizer"]
    assert config["lamella"]["overrides"] == [*SHORT, "tracking=wandb", "name=offline"]
    summary = [item for one in items if one.HasField("summary") for item in one.summary.update]
    values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in summary}
    assert values["test/loss"] == record(path)["metrics"]["test/loss"]
    saved = Counter(file.path for one in items if one.HasField("files") for file in one.files.files)
    assert {"run.json", "config.yaml", "log.txt", "metrics.jsonl"} <= saved.keys()


@pytest.mark.slow(5)
def test_a_run_that_was_killed_leaves_no_process(tmp_path: Path, lamella: Lamella) -> None:
    program = Program(tmp_path, "train", *ENDLESS, "tracking=csv", "name=killed")
    wait_until(lambda: list(tmp_path.glob("outputs/killed/*/metrics.csv")), 120, program)
    assert len(followers(tmp_path)) == 1
    program.kill()
    program.wait()
    nobody_is_left()
    path = the_run("killed")
    assert sent(path, "csv")["state"].startswith("interrupted after ")
    assert len((path / "metrics.csv").read_text().splitlines()) == len(lines(path)) + 1


@pytest.mark.slow(5)
def test_a_directory_that_is_deleted_leaves_no_process(tmp_path: Path, lamella: Lamella) -> None:
    program = Program(tmp_path, "train", *ENDLESS, "tracking=csv", "name=deleted")
    wait_until(lambda: list(tmp_path.glob("outputs/deleted/*/metrics.csv")), 120, program)
    the_run("deleted").rename("moved")
    assert program.wait() == 1
    nobody_is_left()
    assert not list(Path("outputs/deleted").iterdir())
    assert lamella("sync", "moved", "--to", "csv").status == 0


@pytest.mark.slow(8)
def test_a_server_that_never_answers_ends_no_run(lamella: Lamella) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        result = lamella("train", *SHORT, "tracking=mlflow", f"tracking.mlflow.url={url}", "name=silent")
        assert result.status == 0, result.err
        later = f"lamella sync {the_run('silent')} --to mlflow"
        assert f"tracking: the rest for mlflow is sent in the background; if that fails: {later}" in result.err
    nobody_is_left()


def test_what_is_wrong_is_refused_before_training(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def refused(*overrides: str) -> Any:
        return lamella("train", *SHORT, *overrides)

    url = "tracking.mlflow.url"
    refused("tracking=mlflow").check_refusal(url, "MLFLOW_TRACKING_URI")
    refused("tracking=mlflow", f"{url}=localhost:5000").check_refusal("such as http://127.0.0.1:5000", f"{url}=local")
    refused("tracking=mlflow", f"{url}=file:///etc").check_refusal(url, "it takes the address of a server")
    refused("tracking=mlflow", f"{url}=http://me:secret@host").check_refusal(url, "contains a password")
    refused("tracking=mlflow", f"{url}=").check_refusal(url, "there is no address of a server")
    for malformed in ("http://[x", "http://h:abc"):
        refused("tracking=mlflow", f"{url}='{malformed}'").check_refusal(
            f"{url} is '{malformed}'", "it takes the address"
        )
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:abc")
        for chosen in ((), (f"{url}=http://host",)):
            refused("tracking=mlflow", *chosen).check_refusal("MLFLOW_TRACKING_URI is 'http://host:abc'")
    refused("tracking=mlflow", f"{url}=3").check_refusal(f"{url} is 3", "str or null")
    refused("tracking=csv", "+tracking.csv.urll=x").check_refusal("tracking.csv.urll", "no such argument")
    refused("+tracking.comet={}").check_refusal("tracking.comet: there is no such tracker", "mlflow")
    refused("tracking=mlflw").check_refusal("mlflw", "mlflow")
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused("tracking=wandb").check_refusal("tracking=wandb needs wandb: pip install 'lamella[wandb]'")
    lamella("train", "-m", "seed=1,2", *SHORT, "tracking=wandb").check_refusal("pip install 'lamella[wandb]'")


def test_a_password_is_sent_to_its_own_server_only(
    lamella: Lamella, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://own.example")
    choose_server(run, "https://own.example.evil.org")
    for command in (("sync", str(run), "--to", "mlflow"), ("resume", str(run), "trainer.max_epochs=3")):
        result = lamella(*command)
        assert result.status == 2
        assert "tracking.mlflow.url" in result.err
        assert "MLFLOW_TRACKING_PASSWORD would be sent there" in result.err
        assert "secret" not in result.err
    assert not followers(Path.cwd())


@contextmanager
def answering(status: int, **answers: object) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server and the paths it was asked for. answers: by the last word of a path, as JSON."""
    asked = list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path.partition("?")[0])
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = json.dumps(answers.get(asked[-1].rpartition("/")[2], {})).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{http.server_port}", asked
        http.shutdown()


def choose_server(run: Path, url: str) -> None:
    """Name an MLflow server in the config of a run."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["tracking"] = {"mlflow": {"url": url, "experiment": "x"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.slow(3)
def test_a_server_in_trouble_is_asked_for_each_run_and_shows_no_password(
    lamella: Lamella, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(run, "other"))
    with answering(503) as (address, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{address}")
        result = lamella("sync", str(run), "other", "--to", "mlflow")
    assert result.status == 1
    for path in (run, other):
        assert f"error: {path}: mlflow has failed (API request to http://{address}/" in result.err
        assert sent(path, "mlflow")["error"] in result.err
        assert "secret" not in result.err + (path / "tracking.json").read_text()


def test_a_run_that_fails_is_left_alone_for_a_while(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "FIRST_PAUSE", 1000.0)
    monkeypatch.setattr(follower, "LONGEST_PAUSE", 1000.0)
    with answering(401) as (address, asked):
        choose_server(run, f"http://{address}")
        following = follower.Follower(run)
        following.look()
        tries = len(asked)
        following.look()
        assert len(asked) == tries > 0
        following.look(last=True)
        assert len(asked) > tries


def test_a_server_in_a_record_chooses_no_directory(lamella: Lamella, run: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    info = {"run_id": "1", "experiment_id": "1", "status": "RUNNING", "artifact_uri": chosen.as_uri()}
    answers = {
        "get-by-name": {"experiment": {"experiment_id": "1", "name": "x", "lifecycle_stage": "active"}},
        "search": {"runs": [{"info": info, "data": {}}]},
        "get": {"run": {"info": info, "data": {}}},
    }
    with answering(200, **answers) as (address, _):
        choose_server(run, f"http://{address}")
        refused = lamella("sync", str(run), "--to", "mlflow")
        assert refused.status == 1
        assert "mlflow has failed (the server wants files to be written to file:///" in refused.err
        assert "name it by --url or MLFLOW_TRACKING_URI)" in refused.err
        assert not chosen.exists()
        allowed = lamella("sync", str(run), "--to", "mlflow", "--url", f"http://{address}")
        assert allowed.status == 0, allowed.err
        assert (chosen / "run.json").exists()


def test_sync_goes_on_after_a_run_that_cannot_be_sent(lamella: Lamella, run: Path) -> None:
    full, damaged = (Path(shutil.copytree(run, name)) for name in ("full", "damaged"))
    (full / "metrics.csv").mkdir()
    (damaged / "run.json").write_text("{")
    Path("foreign").mkdir()
    result = lamella("sync", "foreign", "damaged", "full", str(run), "--to", "csv")
    assert result.status == 2
    assert "left out: foreign is no run and no sweep\n" in result.err
    assert "error: damaged" in result.err
    assert "error: full: csv has failed ([Errno 21]" in result.err
    assert result.out == f"{run}: 2 epochs to {run}/metrics.csv\n"


def test_sync_says_that_it_waits_and_sends_what_the_run_is_then(lamella: Lamella, run: Path) -> None:
    metrics = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(metrics.splitlines(keepends=True)[0])
    directory = os.open(run, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)

    def go_on() -> None:
        (run / "metrics.jsonl").write_text(metrics)
        os.close(directory)

    threading.Timer(0.5, go_on).start()
    result = lamella("sync", str(run), "--to", "csv")
    assert (result.status, result.err) == (0, f"{run}: waiting for another process that sends it to a tracker\n")
    assert result.out.startswith(f"{run}: 2 epochs to ")


def test_sync_reads_old_runs_and_damaged_notes(lamella: Lamella) -> None:
    old = Path(shutil.copytree(Path(__file__).parent / "format1/digits", "old"))
    for note in (None, "{", '{"key": 3, "csv": {"epochs": "x"}}', "[]"):
        if note:
            (old / "tracking.json").write_text(note)
        result = lamella("sync", "old", "--to", "csv")
        assert result.status == 0, result.err
        assert result.out.startswith("old: 1 epoch to old/metrics.csv\n")
    assert lamella("sync", "old", "--to", "csv").out == "old: nothing new for old/metrics.csv\n"


def test_sync_refuses_what_it_cannot_send(lamella: Lamella, run: Path) -> None:
    for arguments, texts in {
        ("nowhere", "--to", "csv"): ["nowhere is not there"],
        (str(run), "--to", "cvs"): ["invalid choice: 'cvs'"],
        (str(run), "--to", "csv", "--url", "x"): ["--url: csv takes no such option"],
        (str(run), "--to", "mlflow", "--url", ""): ["there is no address of a server"],
        (str(run),): ["lamella sync takes --to"],
    }.items():
        result = lamella("sync", *arguments)
        assert result.status == 2
        for text in texts:
            assert text in result.err


def test_no_tracker_means_no_process_and_no_file(lamella: Lamella) -> None:
    result = lamella("train", *SHORT, "name=plain")
    assert (result.status, "tracking" in result.out + result.err) == (0, False)
    assert not (the_run("plain") / "tracking.json").exists()
