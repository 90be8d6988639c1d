"""Knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531)."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

import lamella


class Distillation(lamella.Task):
    """Trains a small network to answer as the network of another run.

    teacher: the directory of that run. share: of its answers in the loss; the rest is the loss of the config.
    """

    def __init__(self, teacher: str, temperature: float = 2.0, share: float = 0.5) -> None:
        super().__init__()
        # In training mode, because Lightning warns of other networks at the start; the step sets evaluation mode.
        self.teacher = lamella.load(teacher).network.train().requires_grad_(False)
        self.temperature, self.share = temperature, share

    def step(self, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        images, targets = batch
        output, answers = self.network(images), self.teacher.eval()(images)
        student, teacher = (log_softmax(logits / self.temperature, 1) for logits in (output, answers))
        distance = kl_div(student, teacher, reduction="batchmean", log_target=True) * self.temperature**2
        loss = self.share * distance + (1 - self.share) * self.objective(output, targets)
        return {"loss": loss, "output": output, "distance": distance}
