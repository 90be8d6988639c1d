"""Mirror runs to Weights & Biases: one W&B run for each run, and the runs of a sweep as a group."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamella.tracking.ledger import Sent
from lamella.tracking.snapshot import Snapshot

if TYPE_CHECKING:
    from wandb import Run


class WandbTracker:
    """Sends runs to Weights & Biases, or with WANDB_MODE=offline writes the files that `wandb sync` sends.

    project, entity: where W&B shows the runs; None for the entity of the user. checkpoint: whether the best checkpoint
    is sent when a run has ended. The server, the key and the folder are W&B's own settings: WANDB_BASE_URL,
    WANDB_API_KEY and WANDB_DIR.

    The id of a run is made for its directory, so that a resumed run goes on as the same run of W&B.
    """

    name, package = "wandb", "wandb"

    def __init__(self, project: str = "default", entity: str | None = None, checkpoint: bool = False) -> None:
        self.project, self.entity, self.checkpoint = project, entity, checkpoint
        self._open: dict[Path, Run] = {}

    @property
    def server(self) -> str:
        """Return where the runs are sent."""
        return "/".join(filter(None, (_mode(), os.environ.get("WANDB_BASE_URL"), self.entity, self.project)))

    def send(self, run: Snapshot, sent: Sent) -> Sent:
        """Send what W&B lacks of a run, and return what it has got then. Raises what W&B's client raises.

        sent: what it has got before. W&B takes each epoch once, as it takes no step that is lower than the last one.
        """
        epochs = len(run.epochs)
        if sent["epochs"] == epochs and sent["state"] == run.state:
            return sent
        remote = self._open.get(run.path) or self._opened(run)
        self._open[run.path] = remote
        pictures: dict[int, dict[str, Any]] = {}
        for picture in run.pictures(after=sent["epochs"]):
            pictures.setdefault(picture.epoch, {})[picture.tag] = _image(picture.content)
        for line in run.epochs[sent["epochs"] :]:
            number = int(line["epoch"])
            remote.log({**line, **pictures.get(number, {})}, step=number)
        place = remote.url or f"{remote.settings.sync_dir} (offline; `wandb sync` sends it)"
        if run.state:
            remote.summary.update(run.results())
            for file in run.files(self.checkpoint):
                remote.save(str(file), base_path=str(run.path), policy="now")
            remote.finish(exit_code=int(run.fields["status"] != "finished"))
            del self._open[run.path]
        return Sent(server=self.server, place=place, epochs=epochs, state=run.state, error=None)

    def end_sweep(self, path: Path) -> None:
        """Do nothing: W&B shows the runs of a group together, without a run for the group."""

    def close(self) -> None:
        """Close the runs that have not ended, as after their directories were deleted."""
        for remote in self._open.values():
            remote.finish()
        self._open.clear()

    def _opened(self, run: Snapshot) -> "Run":
        """Return the run of W&B that mirrors a run: a new one, or the one that was sent before."""
        import wandb

        fields = run.fields
        record = {name: fields.get(name) for name in ("overrides", "git", "versions", "environment", "parameters")}
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
        )
        return wandb.init(
            entity=self.entity,
            project=self.project,
            id=run.key,
            name=run.path.name,
            group=run.sweep.name if run.sweep else None,
            config={**run.config, "lamella": {**record, "directory": str(run.path.absolute())}},
            resume="allow",
            reinit="create_new",
            allow_val_change=True,
            settings=settings,
        )


def _mode() -> str:
    """Return whether W&B sends runs or writes files, by its own setting."""
    return os.environ.get("WANDB_MODE", "online")


def _image(content: bytes) -> object:
    """Return a PNG file as an image of W&B."""
    import io

    import wandb
    from PIL import Image

    return wandb.Image(Image.open(io.BytesIO(content)))
