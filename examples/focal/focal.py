"""The focal loss, which counts samples less that are right already (Lin et al. 2017, arXiv:1708.02002)."""

from torch import Tensor, nn


class FocalLoss(nn.Module):
    """The mean of -(1 - p)^gamma log p, where p is the probability of the true class. gamma: 0 is cross entropy."""

    reads = "classes"  # the targets are indices of classes, as those of cross entropy

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar. logits: (B, K). targets: (B,)."""
        log_p = logits.log_softmax(1).gather(1, targets[:, None])
        return -((1 - log_p.exp()) ** self.gamma * log_p).mean()
