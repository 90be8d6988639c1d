"""Mirror runs to an MLflow server: one MLflow run for each run, and a parent of them for a sweep."""

import getpass
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from lamella.errors import RequestError
from lamella.runs.sweep_directory import Sweep
from lamella.tracking.ledger import Sent, read_key, sending, without_password
from lamella.tracking.snapshot import Snapshot

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
URI = "MLFLOW_TRACKING_URI"
# What makes MLflow's client send a password, a token or a key along.
CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
)
CREDENTIALS_FILE = "~/.mlflow/credentials"
# A request is given up sooner than by default, after two minutes and seven retries: what is not sent is sent later.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
QUIET = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"  # what the client prints may contain a password
STATUSES = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "planned": "KILLED",
}
KEY = "tracking.mlflow.url"
MOST = {"metrics": 1000, "params": 100}  # how many the server takes in one request
RUN, SWEEP, STATE = "lamella.run", "lamella.sweep", "lamella.state"  # tags


class MlflowTracker:
    """Sends runs to an MLflow server.

    url: the address of the server; None takes it from the environment variable MLFLOW_TRACKING_URI. experiment: the
    name of the MLflow experiment. checkpoint: whether the best checkpoint is sent when a run has ended.

    What was sent before is asked of the server: each batch of epochs arrives as a whole or not at all, and a run that
    has everything has the tag `lamella.state`.

    trusted: whether the server may name a directory or a bucket, into which this process then writes the files. That is
    true for the server that MLFLOW_TRACKING_URI names, and false for another one that a config names.
    """

    name, package = "mlflow", "mlflow"

    def __init__(self, url: str | None = None, experiment: str = "default", checkpoint: bool = False) -> None:
        self.url = os.environ.get(URI, "") if url is None else url
        self.experiment, self.checkpoint = experiment, checkpoint
        self.trusted = self._check_url(given=url is not None)
        self._client: MlflowClient | None = None
        self._experiment_id = ""

    @property
    def server(self) -> str:
        """Return the address of the server, without a password."""
        return without_password(self.url)

    def send(self, run: Snapshot, sent: Sent) -> Sent:
        """Send what the server lacks of a run, and return what it has got then. Raises what MLflow's client raises."""
        client = self._connect()
        parent = self._sweep(client, run.sweep).info.run_id if run.sweep else None
        remote = self._find(client, RUN, run.key)
        if remote is None:
            tags = {RUN: run.key, **({"mlflow.parentRunId": parent} if parent else {})}
            remote = client.create_run(self._experiment_id, run.started(), tags, run.path.name)
        run_id, known = remote.info.run_id, int(remote.data.metrics.get("epoch", 0))
        self._send_settings(client, run, remote)
        self._send_epochs(client, run, remote, known)
        is_running = remote.info.status == STATUSES["running"]
        # A run that is killed twice in one epoch has the same state twice.
        if run.state and (is_running or remote.data.tags.get(STATE) != run.state):
            self._send_result(client, run, remote)
        elif not run.state and not is_running:
            client.update_run(run_id, STATUSES["running"])
        place = f"{self.server.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{run_id}"
        epochs = max(known, len(run.epochs))
        return Sent(server=self.server, place=place, epochs=epochs, state=run.state, error=None)

    def end_sweep(self, path: Path) -> None:
        """Send the leaderboard of a sweep whose runs were sent, and whether all of them have finished."""
        client, sweep = self._connect(), Sweep(path)
        parent = self._sweep(client, path)
        for file in sorted([path / "sweep.json", *path.glob("leaderboard.*")]):
            self._send_file(client, parent, file)
        statuses = {sweep.status(name) for name in sweep.members}
        worst = next(
            (state for state in ("running", "failed", "interrupted", "planned") if state in statuses), "finished"
        )
        client.set_terminated(parent.info.run_id, STATUSES[worst])

    def close(self) -> None:
        """Do nothing, because nothing is open between two requests."""

    def _check_url(self, given: bool) -> bool:
        """Return whether the address is that of MLFLOW_TRACKING_URI.

        Raises RequestError for an address that is none, or to which a password must not be sent. given: whether the
        address comes from a config or an option.
        """
        if not self.url:
            raise RequestError(
                f"{KEY}: there is no address of a server; write {KEY}=http://HOST:PORT,\n"
                f"  or set the environment variable {URI}",
                KEY,
            )
        known = _parsed(os.environ.get(URI, ""), URI)
        if not given:
            return True
        address = _parsed(self.url, KEY)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise _no_address(self.url, KEY)
        if address.password or address.username:
            raise RequestError(
                f"{KEY} contains a password, which every record of a run would show; leave it out, and set\n"
                f"  {CREDENTIALS[0]} and {CREDENTIALS[1]}, or {URI}",
                KEY,
            )
        same = (address.scheme, address.hostname, address.port) == (known.scheme, known.hostname, known.port)
        secrets = [name for name in CREDENTIALS if os.environ.get(name)]
        secrets += [CREDENTIALS_FILE] if Path(CREDENTIALS_FILE).expanduser().exists() else []
        if secrets and not same:
            raise RequestError(
                f"{KEY} is {self.url!r}, and {secrets[0]} would be sent there; set {URI} to this address too, if that "
                "is its server",
                KEY,
            )
        return same

    def _connect(self) -> "MlflowClient":
        """Return the client, and create the experiment where there is none."""
        if self._client is None:
            for name, value in PATIENCE.items():
                os.environ.setdefault(name, value)
            os.environ[QUIET] = "true"
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException

            client = MlflowClient(self.url)
            found = client.get_experiment_by_name(self.experiment)
            try:
                self._experiment_id = found.experiment_id if found else client.create_experiment(self.experiment)
            except MlflowException:
                found = client.get_experiment_by_name(self.experiment)  # another process has just created it
                if found is None:
                    raise
                self._experiment_id = found.experiment_id
            self._client = client
        return self._client

    def _find(self, client: "MlflowClient", tag: str, key: str) -> "Run | None":
        """Return the run of this experiment on the server that has the value `key` in a tag, None where none has."""
        return next(iter(client.search_runs([self._experiment_id], f"tags.`{tag}` = '{key}'", max_results=1)), None)

    def _sweep(self, client: "MlflowClient", path: Path) -> "Run":
        """Return a sweep's run on the server, which is the parent of the runs, and create it if needed."""
        with sending(path):
            key = read_key(path)
            found = self._find(client, SWEEP, key)
            if found is None:
                tags = {SWEEP: key, "lamella.directory": str(path), **_user()}
                found = client.create_run(self._experiment_id, tags=tags, run_name=path.name)
        return found

    def _send_file(self, client: "MlflowClient", remote: "Run", file: Path, folder: str | None = None) -> None:
        """Send a file as an artifact. Raises RequestError where a server that is not trusted wants it elsewhere."""
        if self.trusted:
            client.log_artifact(remote.info.run_id, str(file), folder)
            return
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        address = remote.info.artifact_uri
        if address.partition(":")[0] not in ("mlflow-artifacts", "http", "https"):
            raise RequestError(
                f"the server wants files to be written to {address:.60}, which a server named in a config may not; "
                f"name it by --url or {URI}"
            )
        # The method of the client would ask for the address once more, and another answer would not be checked.
        repository: Any = get_artifact_repository(address, tracking_uri=self.url)
        repository.log_artifact(str(file), folder)

    def _send_settings(self, client: "MlflowClient", run: Snapshot, remote: "Run") -> None:
        """Send the config as parameters, and what the run was made with as tags, where the server lacks them."""
        from mlflow.entities import Param, RunTag

        run_id = remote.info.run_id
        settings = {_plain(key): str(value) for key, value in run.settings().items()}
        # MLflow refuses another value of a parameter; config.yaml has those that a resumed run has changed.
        new = [Param(key, value) for key, value in settings.items() if key not in remote.data.params]
        tags = {key: value for key, value in _tags(run).items() if remote.data.tags.get(key) != value}
        for params in _parts(new, MOST["params"]):
            client.log_batch(run_id, params=params)
        if tags:
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _send_epochs(self, client: "MlflowClient", run: Snapshot, remote: "Run", known: int) -> None:
        """Send the pictures and the metrics of the epochs after `known`: the pictures first."""
        from mlflow.entities import Metric

        if known >= len(run.epochs):
            return
        with TemporaryDirectory(prefix="lamella-") as folder:
            for picture in run.pictures(after=known):
                file = Path(folder, f"epoch-{picture.epoch:03}.png")
                file.write_bytes(picture.content)
                self._send_file(client, remote, file, f"pictures/{_plain(picture.tag)}")
        lines = list(zip(run.epochs, run.times(), strict=True))[known:]
        width = max(len(line) for line, _ in lines)
        for part in _parts(lines, max(1, MOST["metrics"] // width)):
            metrics = [
                Metric(_plain(name), value, time, int(line["epoch"]))
                for line, time in part
                for name, value in line.items()
            ]
            client.log_batch(remote.info.run_id, metrics=metrics)

    def _send_result(self, client: "MlflowClient", run: Snapshot, remote: "Run") -> None:
        """Send the files and the metrics of a run that has ended."""
        from mlflow.entities import Metric

        for file in run.files(self.checkpoint):
            self._send_file(client, remote, file, "checkpoints" if file.suffix == ".ckpt" else None)
        run_id = remote.info.run_id
        end, step = run.finished(), run.fields.get("best_epoch") or 0
        metrics = [Metric(_plain(name), value, end, step) for name, value in run.results().items()]
        client.log_batch(run_id, metrics=metrics)
        client.set_terminated(run_id, STATUSES[run.fields["status"]], end)
        client.set_tag(run_id, STATE, run.state)


def _parsed(url: str, place: str) -> SplitResult:
    """Return the parts of an address. Raises RequestError for one that is none. place: where it is written."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises an error for one that is no number
    except ValueError:
        raise _no_address(url, place) from None
    return parts


def _no_address(url: str, place: str) -> RequestError:
    """Return the error for a text that is not the address of a server."""
    text = f"{place} is {without_password(url)!r}; it takes the address of a server, such as http://127.0.0.1:5000"
    return RequestError(text, KEY if place == KEY else None)


def _tags(run: Snapshot) -> dict[str, str]:
    """Return the tags of a run: those that MLflow's pages show, and what the record says besides."""
    fields = run.fields
    git, environment = fields.get("git") or {}, {**fields["versions"], **fields.get("environment", {})}
    tags = {
        **_user(),
        "mlflow.source.name": " ".join(["lamella train", *fields["overrides"]]),
        "mlflow.source.type": "LOCAL",
        "lamella.directory": str(run.path.absolute()),
        "lamella.overrides": " ".join(fields["overrides"]),
        "lamella.seed": str(fields["seed"]),
        **{f"lamella.git.{name}": str(value) for name, value in git.items()},
        **{f"lamella.environment.{name}": str(value) for name, value in environment.items()},
    }
    if "commit" in git:
        tags["mlflow.source.git.commit"] = str(git["commit"])
    return {_plain(key): value[:5000] for key, value in tags.items()}


def _user() -> dict[str, str]:
    """Return the tag with the name of the user, none where the machine knows none, as in some containers."""
    with suppress(KeyError, OSError):
        return {"mlflow.user": getpass.getuser()}
    return {}


def _plain(name: str) -> str:
    """Return a name that MLflow takes for a parameter, a metric or a folder."""
    return re.sub(r"[^\w.\- /]", "_", name, flags=re.ASCII)[:250]


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in parts of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
