"""Compute the filters that a network takes from the training images, before a run begins."""

from lamella.data import Batches, Data
from lamella.errors import RequestError
from lamella.experiment.experiment import Experiment
from lamella.network.whitening import SAMPLES, fit_whitening, whitening_layers


def fit_first_filters(experiment: Experiment) -> None:
    """Compute the filters of the Whitening2d layers from training images, which are not augmented.

    The images are drawn without the seed of the run, so that runs with other seeds have the same filters. Raises
    RequestError where there are no images, or where code of the project's own runs the layers.
    """
    if not whitening_layers(experiment.module):
        return
    data, plan = experiment.data, experiment.plan
    if not experiment.kind.is_task or plan is None or plan.parts:
        raise RequestError("network: Whitening2d is a layer of a single network, and a task of your own has several", "network")
    if not isinstance(data, Data):
        raise RequestError(
            "network: Whitening2d is computed from images in memory or in files, and a dataset or datamodule of your "
            "own gives batches; write Conv2d",
            "network",
        )
    count = min(SAMPLES, len(data.train))
    batches = Batches(data.train, count, normalize=data.normalize, shuffle=True, num_workers=data.num_workers and 0)
    inputs, _ = next(iter(batches))
    network = experiment.task.network
    fit_whitening(network, inputs.to(next(network.parameters()).device))
