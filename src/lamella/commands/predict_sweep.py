"""What `lamella predict` does with a sweep: the mean of what its members say, and out-of-fold predictions."""

from collections.abc import Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.commands.predict_inputs import Reader
from lamella.errors import RequestError
from lamella.runs.files import FOLDS
from lamella.runs.reader import read_run, read_text
from lamella.runs.sweep_directory import Sweep
from lamella.sweeps.leaderboard import Leaderboard

if TYPE_CHECKING:
    from torch import Tensor

    from lamella.commands.predict_inputs import Item
    from lamella.commands.predict_rows import Row
    from lamella.data import Data
    from lamella.experiment.model import Model

# What is the same in members whose predictions have a mean, in words and as an attribute of a model.
ALIKE = {"classes": "classes", "outputs": "output", "names of numbers": "output_names", "images": "decoder"}
OUT_OF_FOLD = "out_of_fold.csv"  # in the directory of a sweep


def finished_members(path: Path) -> list[Path]:
    """Return the run directories of a sweep, without those that a search has pruned.

    Raises RequestError for a sweep without members, and names the members that are not finished.
    """
    sweep = Sweep(path)
    states = {name: sweep.status(name) for name in sweep.members if name not in sweep.fields.get("pruned", [])}
    unfinished = [f"{name} ({state})" for name, state in states.items() if state != "finished"]
    if unfinished or not states:
        raise RequestError(
            f"{path}: {len(unfinished)} of the {len(states)} members of this sweep are not finished"
            f"{': ' * bool(unfinished)}{', '.join(unfinished)};\n  finish them with `lamella resume {path}`"
        )
    return [path / name for name in states]


def check_alike(runs: "Sequence[Path]", models: "Sequence[Model]") -> None:
    """Raise RequestError for members of a sweep whose answers have no mean."""
    for run, model in zip(runs, models, strict=True):
        for what, name in ALIKE.items():
            values = [getattr(one, name) for one in (models[0], model)]
            if values[0] != values[1]:
                raise RequestError(
                    f"{run} has other {what} than {runs[0]}, {values[1]} in place of {values[0]}, so that there is no "
                    "mean of what they predict;\n  give one member in place of the sweep"
                )
        if model.reconstructs and len(models) > 1:
            raise RequestError(
                f"{run}: its network gives pictures, and the mean of the pictures of several networks is none that a "
                "network gives;\n  give one member in place of the sweep"
            )


def predictions(models: "Sequence[Model]", readers: Sequence[Reader], files: list[str]) -> "Iterator[Item]":
    """Yield the name of each sample with the mean of what the models say of it, or with why it cannot be read.

    readers: of the models, in their order. Images are decoded once, for all models.
    """
    import torch

    if models[0].encoder is None:
        batches = list(tee(readers[0].batches(files), len(models)))
    else:
        batches = [reader.batches(files) for reader in readers]
    said = (_answers(model, its) for model, its in zip(models, batches, strict=True))
    for (name, first), *others in zip(*said, strict=True):
        answers = [answer for answer in (first, *(answer for _, answer in others)) if not isinstance(answer, str)]
        yield name, first if isinstance(first, str) else torch.stack(answers).mean(0)


def _answers(model: "Model", batches: "Iterator[list[Item]]") -> "Iterator[Item]":
    """Yield the name of each sample with what a model says of it, or with the reason why it cannot be read."""
    import torch

    for batch in batches:
        inputs = [item for _, item in batch if not isinstance(item, str)]
        answers = iter(model.predict(torch.stack(inputs)) if inputs else ())
        for name, item in batch:
            yield name, item if isinstance(item, str) else next(answers)


def check_folds(path: Path, runs: Sequence[Path]) -> None:
    """Raise RequestError where the members of a sweep are not one cross-validation."""
    data = [read_run(run)[1]["data"] for run in runs]
    if any(one.get("folds") is None for one in data):
        raise RequestError(
            f"{path}: this sweep has no folds, of which it could predict the samples; name files to predict them with "
            "all members,\n  or train with folds, as `lamella train -m data.folds=5`"
        )
    board = Leaderboard(Sweep(path))
    if len(board.rows) > 1 or len({read_text(run, FOLDS) for run in runs}) > 1:
        differ = ", ".join(board.keys) if len(board.rows) > 1 else "how they divide the samples (data.split_seed)"
        raise RequestError(
            f"{path}: its members differ in {differ}, and out-of-fold predictions are of one setting;\n"
            "  train the folds with that alone, in a sweep of their own"
        )
    if missing := sorted({*range(data[0]["folds"])} - {one["fold"] for one in data}):
        raise RequestError(
            f"{path}: no member validates fold {', '.join(map(str, missing))}; train with "
            f"`lamella train -m data.folds={data[0]['folds']}`, which takes each"
        )


def out_of_fold(runs: Sequence[Path], models: "Sequence[Model]", checkpoint: str) -> "list[Row]":
    """Return the number, the fold and the target of each sample of the folds, and the prediction for it.

    This is the mean over the members that its fold validates, which were not trained on it. checkpoint: "best" or
    "last". Raises RequestError where a network predicts no class, labels or numbers, and where the data have changed.
    """
    import torch

    known: dict[int, dict[str, object]] = {}
    said: dict[int, list[Tensor]] = {}
    for run, model in zip(runs, models, strict=True):
        data = _data(run, checkpoint)
        assert data.folds is not None
        targets = data.val.targets
        shape = tuple(targets.shape[1:])
        fits = (
            len(model.output) < 2 and (data.has_classes or shape == model.output) and not isinstance(data.shape, dict)
        )
        if model.reconstructs or not fits:
            raise RequestError(
                f"{run}: out-of-fold predictions are a class, labels or numbers for one input; its network gives "
                f"{model.output} for an input {data.shape}, and a target is {shape};\n"
                "  name files to predict them with all members"
            )
        served = (inputs for inputs, _ in data.val_dataloader() if isinstance(inputs, torch.Tensor))
        answers = torch.cat(list(map(model.predict, served)))
        numbers = (data.folds.numbers == data.folds.fold).nonzero().flatten().tolist()
        for number, target, answer in zip(numbers, targets, answers, strict=True):
            known[number] = {"sample": number, "fold": data.folds.fold, **_target(model, target, data.has_classes)}
            said.setdefault(number, []).append(answer)
    return [(known[number], torch.stack(said[number]).mean(0)) for number in sorted(known)]


def _data(run: Path, checkpoint: str) -> "Data":
    """Return the samples of a run, read again. Raises RequestError if they are not those that it was trained with."""
    from lamella.data import Data
    from lamella.data.fingerprint import changed
    from lamella.experiment.build import prepare_experiment
    from lamella.experiment.model import read_encoder
    from lamella.lightning_internals import datamodule_key
    from lamella.runs.checkpoints import find_checkpoint, read_checkpoint

    data = prepare_experiment(read_run(run)[1], encoder=read_encoder(run)).data
    assert isinstance(data, Data)  # others have no folds
    saved = read_checkpoint(find_checkpoint(run, checkpoint)).get(datamodule_key(type(data)))
    if different := data.differences(saved, "validate"):
        raise RequestError(
            f"{run}: the data have changed since the training, so that nobody knows which samples the run was trained "
            f"on; {changed(different)}; put the data back"
        )
    return data


def _target(model: "Model", target: "Tensor", is_class: bool) -> dict[str, object]:
    """Return the target of a sample in words or in its unit, by its heading."""
    if is_class:
        classes, number = model.classes or [], int(target)
        return {"target": classes[number] if 0 <= number < len(classes) else ""}
    values = target if model.encoder is None else model.encoder.decode(target)
    numbers = [float(str(value)) for value in values.flatten().numpy()]  # as short as float32 allows
    heads = [f"target {name}" for name in model.output_names] if len(numbers) > 1 else ["target"]
    return dict(zip(heads, numbers, strict=True))
