"""Continue a text by a network that predicts the next token at each position."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lamella.errors import RequestError
from lamella.network.eval_mode import eval_mode
from lamella.seeds import TEXT, generator
from lamella.training.objective import Objective


def next_tokens(
    scores: Callable[[Tensor], Tensor],
    context: Sequence[int],
    length: int,
    count: int,
    temperature: float = 0.8,
    top: int = 40,
    seed: int = 0,
) -> Iterator[int]:
    """Yield `count` tokens that follow `context`, each drawn from the scores of those before it.

    scores: takes tokens int64 (1, t), t at most `length`, and returns the scores of the next one (classes,) on the CPU.
    length: the last so many tokens are the context. temperature: divides the scores; 0 takes the best token. top: only
    so many of the best tokens are drawn. The tokens depend on the arguments alone. Raises RequestError.
    """
    if not context:
        raise RequestError("the prompt is empty; write a text to go on from, of one letter or more")
    for name, value, least in (("tokens", count, 1), ("temperature", temperature, 0), ("top", top, 1)):
        if not least <= value < float("inf"):
            raise RequestError(f"{name} is {value}; it takes {least} or more")
    tokens, numbers = list(context), generator(seed, TEXT)
    for _ in range(count):
        found = scores(torch.tensor([tokens[-length:]]))
        values, candidates = found.double().topk(1 if temperature == 0 else min(top, len(found)))
        # The difference to the best score is what is divided, so that a small temperature does not overflow.
        chances = ((values - values[0]) / (temperature or 1)).softmax(0)
        tokens.append(int(candidates[torch.multinomial(chances, 1, generator=numbers)]))
        yield tokens[-1]


def check_causal(network: nn.Module, objective: Objective, length: int) -> None:
    """Raise RequestError if the scores at a position depend on a later token, which is what they are to predict.

    network: takes tokens int64 (B, length), on the CPU.
    """
    tokens = torch.zeros(1, length, dtype=torch.int64)
    other = tokens.clone()
    other[0, -1] = 1
    with eval_mode(network):
        first, second = (objective.by_class(network(one))[..., :-1] for one in (tokens, other))
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise RequestError(
            "network: its scores at a position depend on later tokens, which are what it has to predict; write\n"
            "  causal: true in SelfAttention and TransformerEncoderLayer, and use no bidirectional layer",
            "network.layers",
        )
