"""Set the weights with which a run begins, beside those that are drawn: of another run, or from the training images."""

from torch import Tensor

from lamella.data import Batches, Data
from lamella.errors import RequestError
from lamella.experiment.experiment import Experiment
from lamella.network.weight_matching import TakenWeights
from lamella.network.whitening import SAMPLES, fit_whitening, whitening_layers


def set_first_weights(experiment: Experiment) -> TakenWeights | None:
    """Compute the filters of Whitening2d layers, take the weights that the config names, and return what was taken.

    Returns None where the config names no weights. Raises RequestError as `fit_filters` and `InitialWeights.load` do.
    """
    fit_filters(experiment)
    if not experiment.weights or not experiment.kind.is_task:
        return None
    return experiment.weights.load(experiment.task.network)


def fit_filters(experiment: Experiment) -> None:
    """Compute the filters of the Whitening2d layers from training images, which are not augmented.

    The images are drawn without the seed of the run, so that runs with other seeds have the same filters. Raises
    RequestError where there are no images, or where code of the project's own runs the layers.
    """
    if not whitening_layers(experiment.module):
        return
    data, plan = experiment.data, experiment.plan
    if not experiment.kind.is_task or plan is None or plan.parts:
        raise RequestError(
            "network: Whitening2d is a layer of a network that the task calls as a whole, and this task calls its "
            "parts; write Conv2d",
            "network",
        )
    if not isinstance(data, Data):
        raise RequestError(
            "network: Whitening2d is computed from images in memory or in files, and a dataset or datamodule of your "
            "own gives batches; write Conv2d",
            "network",
        )
    count = min(SAMPLES, len(data.train))
    batches = Batches(data.train, count, normalize=data.normalize, shuffle=True, num_workers=data.num_workers and 0)
    inputs, _ = next(iter(batches))
    if not isinstance(inputs, Tensor):
        raise RequestError(
            "network: Whitening2d is computed for a network with one input, and the samples have several; write Conv2d",
            "network",
        )
    network = experiment.task.network
    fit_whitening(network, inputs.to(next(network.parameters())))
