"""Average what a network gives for several views of each image (test-time augmentation)."""

from collections.abc import Collection, Iterator

from torch import Tensor, nn

from lamella.data.transforms import reflected
from lamella.errors import RequestError, nearest
from lamella.experiment.experiment import Experiment

KINDS = ("flip", "shift")
OPTION = "--views"


class Views(nn.Module):
    """Gives the mean of a network's outputs for an image and for changed copies of it.

    kinds: "flip" adds the mirror image, "shift" adds each image moved by a pixel, up to the left and down to the right,
    with mirrored pixels at the border. Both together are six views.
    Shapes: (B, C, H, W) in, those of the network out.
    """

    def __init__(self, network: nn.Module, kinds: Collection[str]) -> None:
        super().__init__()
        self.network, self.kinds = network, kinds

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean of the outputs."""
        views = [*self._views(images)]
        outputs: Tensor = sum(self.network(view) for view in views) / len(views)
        return outputs

    def _views(self, images: Tensor) -> Iterator[Tensor]:
        height, width = images.shape[2:]
        padded = reflected(images, 1) if "shift" in self.kinds else images
        for first in (1, 0, 2) if "shift" in self.kinds else (0,):
            view = padded[:, :, first : first + height, first : first + width]
            yield view
            if "flip" in self.kinds:
                yield view.flip(3)


def average_views(experiment: Experiment, names: str) -> None:
    """Let the network of an experiment give the mean of several views.

    names: of the kinds of views, as in "flip,shift". Raises RequestError for other names and for runs without images.
    """
    kinds = [name.strip() for name in names.split(",")]
    for kind in kinds:
        if kind not in KINDS:
            raise RequestError(f"{OPTION}: there is no view {kind!r}; {nearest(kind, KINDS)}")
    data = experiment.data
    if not experiment.kind.is_task or not data.images or isinstance(data.shape, dict) or len(data.shape) != 3:
        raise RequestError(f"{OPTION} changes images, and this run has no network that takes images alone")
    if data.has_masks or data.reconstructs:
        raise RequestError(f"{OPTION} averages outputs for an image as a whole, and these are for each of its pixels")
    experiment.task.network = Views(experiment.task.network, kinds)
