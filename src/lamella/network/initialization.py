"""Draw the first weights of a network otherwise than torch's layers do."""

import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import init

from lamella.errors import RequestError, first_line, nearest
from lamella.signatures import check_call


def identity_(tensor: Tensor) -> Tensor:
    """Let the first outputs of a convolution be its inputs, as `dirac_` does, and leave further outputs as they are."""
    init.dirac_(tensor[: tensor.shape[1]])
    return tensor


# Words for functions of torch.nn.init, beside those functions' own names. 0.02 is the deviation of GPT-2's weights.
WORDS: dict[str, Callable[..., object]] = {
    "he": init.kaiming_normal_,
    "xavier": init.xavier_uniform_,
    "normal": partial(init.normal_, std=0.02),
    "identity": identity_,
}
# The functions that need a weight of two or more dimensions begin with these.
OF_MATRICES = ("he", "xavier", "kaiming", "orthogonal", "sparse", "eye", "dirac", "identity")
FUNCTIONS = {name[:-1]: function for name, function in vars(init).items() if re.fullmatch("[a-z]\\w*_", name)} | WORDS


def initialize_parameters(network: nn.Module, how: object, place: str = "network.init") -> None:
    """Draw the weights of a network anew, in their order, from torch's random generator.

    how: a word for all weights of two or more dimensions, such as "he", or a mapping of patterns of names (with * and
    ?) to words. A word is the name of a function of torch.nn.init without its last underscore, or one of WORDS; with
    arguments it is a mapping, such as {"normal": {"std": 0.01}}. place: the config key of `how`. Raises RequestError.
    """
    for _, parameter, function in matched_parameters(network, how, place):
        function(parameter)


def matched_parameters(
    network: nn.Module, how: object, place: str = "network.init"
) -> Iterator[tuple[str, Tensor, Callable[[Tensor], object]]]:
    """Yield the name of each parameter that `how` means, the parameter and the function that draws it.

    Raises RequestError for an unknown word, and for a pattern that means no parameter.
    """
    parameters = dict(network.named_parameters())
    patterns = how if isinstance(how, Mapping) and not set(how) & set(FUNCTIONS) else {"*": how}
    for pattern, word in patterns.items():
        key = f"{place}.{pattern}" if patterns is how else place
        function, of_matrices = initializer(word, key)
        least = 2 if of_matrices or patterns is not how else 0
        names = [name for name, value in parameters.items() if fnmatchcase(name, pattern) and value.dim() >= least]
        if not names:
            what = "of two or more dimensions is" if least else "is"
            hint = nearest(pattern.replace("*", ""), parameters)
            raise RequestError(f"{place}: no parameter {what} called like {pattern!r}; {hint}", place)
        yield from ((name, parameters[name], function) for name in names)


def initializer(word: object, place: str) -> tuple[Callable[[Tensor], object], bool]:
    """Return the function that a word names, and whether it needs a tensor of two or more dimensions.

    word: as for `initialize_parameters`. The function raises RequestError for a tensor that it cannot draw.
    """
    arguments: Mapping[str, object] = {}
    if isinstance(word, Mapping) and len(word) == 1:
        [(word, given)] = word.items()
        if not isinstance(given, Mapping):
            raise RequestError(f"{place}.{word} is {given!r}; it takes arguments by name, as {{std: 0.02}}", place)
        arguments = given
    if not isinstance(word, str) or word not in FUNCTIONS:
        raise RequestError(f"{place} is {word!r}; {nearest(str(word), FUNCTIONS)}", place)
    function = FUNCTIONS[word]
    signature = function.func if isinstance(function, partial) else function
    check_call(signature, arguments, place=place, supplied={"tensor"}, title=word)

    def draw(tensor: Tensor) -> object:
        try:
            with torch.no_grad():
                return function(tensor, **arguments)
        except (ValueError, RuntimeError, TypeError) as error:
            raise RequestError(f"{place}: {word}: {first_line(error)}", place) from error

    return draw, word.startswith(OF_MATRICES)
