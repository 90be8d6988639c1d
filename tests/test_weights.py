"""`network.weights`: what a network takes from a run or a file, what is refused, and what a run keeps of it."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import programs
import pytest
import torch
import torchvision
import yaml
from conftest import Lamella, Project, Shared, contents

import lamella as api
from lamella.experiment.build import build_network
from lamella.runs.checkpoints import VerifiedCheckpointIO, read_weights

SMALL = ("network=cnn", "network.widths=[4,8]", "data.batch_size=512", "visuals=none", "device=cpu", "device.threads=1")
SHORT = (*SMALL, "trainer.max_epochs=1")
HEAD = "classifier.4"


@pytest.fixture(scope="module")
def parent(shared: Shared) -> Path:
    """A finished run of an epoch on the ten digits; not to be changed."""
    directory = shared("parent", lambda path: programs.run(path, "train", *SHORT, "name=parent"))
    return next(directory.glob("outputs/parent/*"))


def record(run: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((run / "run.json").read_text())
    return fields


def named(name: str) -> Path:
    [path] = Path("outputs", name).iterdir()
    return path


@pytest.fixture(scope="module")
def continuation(shared: Shared, parent: Path) -> Path:
    """A directory with a copy of `parent` and a run that began with it, but for its head, and has learned nothing."""

    def fill(path: Path) -> None:
        shutil.copytree(parent, path / "first")
        weights = f"network.weights={{from: first, skip: [{HEAD}.*]}}"
        programs.run(path, "train", *SHORT, weights, "optimizer=sgd", "optimizer.lr=0", "name=next", "seed=3")

    return shared("continuation", fill)


@pytest.fixture
def first(lamella: Lamella, parent: Path) -> str:
    """A copy of `parent` in the working directory."""
    return str(shutil.copytree(parent, "first"))


@pytest.fixture
def copied(continuation: Path, lamella: Lamella) -> Path:
    """The run in a copy of that directory, which is the working directory."""
    shutil.copytree(continuation, ".", dirs_exist_ok=True)
    return named("next")


def test_a_run_takes_the_weights_of_another_and_draws_the_rest(copied: Path) -> None:
    before = read_weights(Path("first/checkpoints/best.ckpt"))
    found = read_weights(copied / "checkpoints/last.ckpt")
    torch.manual_seed(3)
    drawn = build_network(yaml.safe_load((copied / "config.yaml").read_text()))[0]
    for name, value in drawn.named_parameters():
        expected = value if name.startswith(HEAD) else before[f"network.{name}"]
        assert torch.equal(found[f"network.{name}"], expected), name
    assert found["network.features.2.num_batches_tracked"] > before["network.features.2.num_batches_tracked"] > 0
    line = f"weights: 16 of 18 parameters and buffers from first/checkpoints/best.ckpt; new: {HEAD}.*; unused: {HEAD}.*"
    assert line in (copied / "log.txt").read_text()
    weights = record(copied)["weights"]
    digest = hashlib.sha256(Path("first/checkpoints/best.ckpt").read_bytes()).hexdigest()
    assert weights == {"from": "first", "checkpoint": "best", "sha256": digest}


def test_what_reads_a_run_needs_the_file_no_more(lamella: Lamella, copied: Path) -> None:
    shutil.rmtree("first")
    api.load(copied)
    for line in (["eval", copied], ["export", copied, "--format", "safetensors"], ["inspect", copied]):
        result = lamella(*map(str, line))
        assert result.status == 0, result.err
    result = lamella("resume", str(copied), "trainer.max_epochs=2")
    assert result.status == 0, result.err
    assert "going on after epoch 1" in result.out
    assert result.out.count("parameters and buffers from") == 0
    refused = lamella("reproduce", str(copied))
    assert refused.status == 2
    assert "network.weights is 'first': there is no run and no file" in refused.err


def test_runs_and_compare_show_where_weights_come_from(lamella: Lamella, copied: Path) -> None:
    assert "weights.from" in (shown := lamella("runs").out)
    assert "  first  " in shown
    compared = lamella("compare", str(copied), "first").out
    assert "network.weights, SHA-256" in compared
    assert "network.weights.from" in compared


@pytest.mark.slow
def test_a_run_is_reproduced_from_the_same_file_alone(lamella: Lamella, copied: Path) -> None:
    Path("first").rename("moved")
    result = lamella("reproduce", str(copied), "network.weights.from=moved")
    assert result.status == 0, result.err
    checkpoint = torch.load("moved/checkpoints/best.ckpt", weights_only=True)
    Path("moved/checkpoints/best.ckpt").unlink()
    VerifiedCheckpointIO().save_checkpoint({**checkpoint, "other": 1}, "moved/checkpoints/best.ckpt")
    before = contents(Path("outputs"))
    refused = lamella("reproduce", str(copied), "network.weights.from=moved")
    assert refused.status == 2
    assert "moved/checkpoints/best.ckpt is not the file with which the run began: its SHA-256 is " in refused.err
    assert contents(Path("outputs")) == before
    chained = lamella("reproduce", "--chain", str(copied))
    assert (chained.status, "first is not there" in chained.err) == (2, True)
    Path("moved").rename("first")
    shutil.rmtree("first/checkpoints")
    chained = lamella("reproduce", "--chain", str(copied))
    assert chained.status == 0, chained.err
    assert "reproduced: every metric of 1 epochs, bit for bit those of first\n" in chained.out
    assert f"and every metric of 1 epochs, bit for bit those of {copied}\n" in chained.out
    assert record(Path(f"{copied}_3"))["weights"]["from"] == "outputs/parent/first"


def test_a_run_without_a_checkpoint_begins_again_with_the_same_file(lamella: Lamella, copied: Path) -> None:
    shutil.rmtree(copied / "checkpoints")
    fields = {**record(copied), "status": "interrupted", "epochs": 0}
    (copied / "run.json").write_text(json.dumps(fields))
    (copied / "metrics.jsonl").unlink()
    Path("first").rename("moved")
    before = contents(copied)
    refused = lamella("resume", str(copied))
    assert (refused.status, "there is no run and no file" in refused.err) == (2, True)
    assert contents(copied) == before
    Path("moved").rename("first")
    result = lamella("resume", str(copied))
    assert result.status == 0, result.err
    assert "parameters and buffers from first/checkpoints/best.ckpt" in result.out


@pytest.mark.slow
def test_a_run_goes_on_with_other_classes(lamella: Lamella, first: str, image_root: Path) -> None:
    data = ("data=image_folder", f"data.root={image_root}", "data.shape=[1,28,28]", "data.mean=0.5", "data.std=0.5")
    line = ("train", *SHORT, *data, "name=other")
    refused = lamella(*line, f"network.weights={first}")
    assert refused.status == 2
    assert f"network.weights: {HEAD}.weight is (10, 128) in {first}/checkpoints/best.ckpt and (3, 128)" in refused.err
    way = f"'network.weights={{from: {first}, skip: [{HEAD}.*]}}'\n"
    assert f"and 1 more has another shape;\n  to draw them anew: {way}" in refused.err
    refused = lamella(*line, f"network.weights={{from: {first}, skip: [features.0.*]}}")
    assert f"to draw them anew: network.weights.skip=[features.0.*,{HEAD}.*]\n" in refused.err
    assert not Path("outputs").exists()
    weights = f"network.weights={{from: {first}, checkpoint: last, skip: [{HEAD}.*]}}"
    shown = lamella("inspect", *line[1:], weights)
    assert shown.status == 0, shown.err
    assert f"Weights from {first}/checkpoints/last.ckpt" in shown.out
    assert "taken   16" in shown.out
    freeze = "network.freeze=[features.*]"
    result = lamella(*line, weights, freeze)
    assert result.status == 0, result.err
    note = f"note: {first} was trained with another normalisation of the images; to take it over: data.mean="
    assert note in result.err
    found, before = (
        read_weights(named("other") / "checkpoints/last.ckpt"),
        read_weights(Path(first) / "checkpoints/last.ckpt"),
    )
    frozen = [name for name in found if name.startswith("network.features.")]
    assert all(torch.equal(found[name], before[name]) for name in frozen)


@pytest.mark.slow
def test_members_of_a_sweep_begin_with_their_own_weights(lamella: Lamella, first: str) -> None:
    state = {
        name.removeprefix("network."): value
        for name, value in read_weights(Path(first) / "checkpoints/best.ckpt").items()
    }
    torch.save({name: torch.zeros_like(value) for name, value in state.items()}, "zeros.pth")
    lr = ("optimizer=sgd", "optimizer.lr=0", "sweep.name=s", "network.dropout=0")
    line = ("train", "-m", *SHORT, *lr, f"network.weights={first},zeros.pth,{{from: nowhere.pth}}")
    refused = lamella(*line)
    assert (refused.status, "nowhere.pth'" in refused.err, Path("outputs").exists()) == (2, True, False)
    result = lamella(*line, "sweep.skip_invalid=true", "hydra/launcher=fused", "hydra.launcher.slots=1")
    assert result.status == 0, result.err
    assert "alone" not in result.out
    runs = [path.parent for path in Path("outputs/default/s").glob("*/run.json")]
    sums = {
        record(run)["weights"]["from"]: sum(
            map(
                torch.count_nonzero,
                (
                    value
                    for name, value in read_weights(run / "checkpoints/last.ckpt").items()
                    if name.endswith(".weight")
                ),
            )
        )
        for run in runs
    }
    assert (len(runs), sums["zeros.pth"], sums[first] > 100) == (2, 0, True)


MISTAKES = {
    "network.weights=nowhere": "network.weights is 'nowhere': there is no run and no file",
    "network.weights=outputs": "network.weights is 'outputs': outputs is not a run directory",
    "network.weights=DEFAULT": "network.weights is 'DEFAULT', a name of torchvision's weights, and this network is ",
    "network.weights={from: DEFAULT}": "the network is none of torchvision's; a file of this name is ./DEFAULT",
    "network.weights={form: a.pth}": "network.weights.form: there is no such key; did you mean from?",
    "network.weights={skip: [a]}": "it takes a run directory or a file, also as {from: …}",
    "network.weights={from: a.pth, checkpoint: first}": "network.weights.checkpoint is 'first'; it takes best or last",
    "network.weights={from: a.pth, checkpoint: last}": "network.weights.checkpoint is one of a run, and a.pth",
    "network.weights={from: a.pth, rename: [a]}": "network.weights.rename is ['a']; it takes prefixes of names",
    "network.weights={from: a.pth, skip: head}": "network.weights.skip is 'head'; it takes a list of patterns",
    "network.weights={from: a.pth, rename: {body.: ''}}": "no name in a.pth begins with 'body.': module.1.*",
    "network.weights={from: a.pth, rename: {module.: ''}, skip: [x.*]}": "called like 'x.*'; known: 1.bias, 1.weight",
    "network.weights=a.pth": "no name in a.pth (module.1.*) is one of this network (1.*);\n"
    "  2 of 2 fit with `rename: {'module.': ''}` below network.weights",
    "network.weights=part.pth": "1.weight is (10, 3) in part.pth and (10, 784) in this network;\n",
    "network.weights=other.pth": "no name in other.pth (x) is one of this network (1.*)\n",
    "network.weights=hostile.pth": "it holds posix.system, which is no tensor, and is not read",
    "network.weights=cut.pth": "network.weights: cut.pth: it is damaged, or no file of weights",
    "network.weights=half.pth": "network.weights: half.pth: it is damaged, or no file of weights",
    "network.weights=cut.safetensors": "network.weights: cut.safetensors: it is damaged, or no file of weights",
    "network.weights=numbers.pt": "network.weights: numbers.pt: it holds no tensors by name",
}


class Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch hacked",)


@pytest.mark.slow
def test_what_cannot_be_taken_is_refused(lamella: Lamella) -> None:
    Path("outputs").mkdir()
    torch.save({"module.1.weight": torch.ones(10, 784), "module.1.bias": torch.ones(10)}, "a.pth")
    torch.save({"1.weight": torch.ones(10, 3)}, "part.pth")
    torch.save({"x": torch.ones(3)}, "other.pth")
    torch.save({"1.weight": torch.ones(10, 784), "epoch": Hostile()}, "hostile.pth")
    torch.save([1, 2], "numbers.pt")
    for name in ("cut.pth", "cut.safetensors"):
        Path(name).write_bytes(Path("a.pth").read_bytes()[:500])
    # Longer than the end of an archive, which torch looks for then, and gives an error of the operating system.
    Path("half.pth").write_bytes(Path("a.pth").read_bytes()[:5000])
    for override, message in MISTAKES.items():
        result = lamella("train", "network=linear", override)
        assert result.status == 2, override
        assert result.err.startswith("error: network.weights"), result.err
        assert message in result.err
        assert len(result.err) < 700
    assert not Path("hacked").exists()
    assert not list(Path("outputs").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "legacy"])
def test_a_network_of_torchvision_gets_another_head(lamella: Lamella, image_root: Path, is_archive: bool) -> None:
    state = torchvision.models.resnet18().state_dict()
    torch.save({"model": state, "epoch": 3}, "resnet18.pth", _use_new_zipfile_serialization=is_archive)
    data = ("data=image_folder", f"data.root={image_root}", "data.shape=[3,32,32]", "network=resnet18")
    line = ("train", *data, "trainer=debug", "visuals=none", "device.threads=1")
    result = lamella(
        *line, "network.weights={from: resnet18.pth, skip: [fc.*]}", "network.freeze=[conv1.*,bn1.*,layer*]"
    )
    assert result.status == 0, result.err
    assert "weights: 120 of 122 parameters and buffers from resnet18.pth; new: fc.*; unused: fc.*" in result.out
    [path] = Path("outputs").glob("*/*")
    found = read_weights(path / "checkpoints/last.ckpt")
    assert all(
        torch.equal(found[f"network.{name}"], value) for name, value in state.items() if not name.startswith("fc.")
    )


@pytest.mark.slow
def test_weights_of_torchvision_by_name(
    lamella: Lamella, image_root: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come from torch's cache, or else the error says where to put the file."""

    def unreachable(*given: object, **more: object) -> None:
        raise URLError("no network")

    project({"network/squeeze.yaml": "_target_: torchvision.models.squeezenet1_1\nnum_classes: 3\n"})
    cache = image_root.parent / "cache"
    monkeypatch.setenv("TORCH_HOME", str(cache))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    data = ("data=image_folder", f"data.root={image_root}", "data.shape=[3,32,32]", "device.threads=1")
    weights, skip = (
        torchvision.models.SqueezeNet1_1_Weights.DEFAULT,
        "network.weights={from: DEFAULT,skip: [classifier.*]}",
    )
    file = cache / "hub/checkpoints" / Path(weights.url).name
    for form in (skip, "network.weights=DEFAULT"):
        heads = [] if form == skip else ["~network.num_classes"]  # the argument has the classes of the weights
        refused = lamella("train", *data, "network=squeeze", "trainer=debug", form, *heads)
        assert refused.status == 2
        message = "network.weights: SqueezeNet1_1_Weights.IMAGENET1K_V1 cannot be downloaded (no network)"
        assert f"{message};\n  bring {weights.url}\n  to {file}" in refused.err
    unknown = lamella("train", *data, "network=squeeze", "network.weights={from: IMAGENET}")
    assert "network.weights is 'IMAGENET'; did you mean IMAGENET1K_V1?" in unknown.err
    torch.save(torchvision.models.squeezenet1_1().state_dict(), file)
    pixels = ("data.mean=0.5", "data.std=0.5")
    result = lamella("train", *data, *pixels, "network=squeeze", "trainer=debug", "visuals=none", skip)
    assert result.status == 0, result.err
    assert "weights: 50 of 52 parameters and buffers from " in result.out
    assert (
        "DEFAULT was trained with another normalisation of the images; to take it over: data.mean=[0.485," in result.err
    )
