"""Texts in memory, and the encoder that turns them into tokens."""

import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from lamella.data.samples import Samples
from lamella.data.text_files import decode_text, read_text_file
from lamella.errors import RequestError, nearest
from lamella.tables import read_csv

PADDING, UNKNOWN = 0, 1
WORD = re.compile(r"\w+|[^\w\s]")
# What a token may be, and how many there are unless `data.vocabulary` says otherwise.
VOCABULARIES = {"bytes": 256, "words": 10_000}


def vocabulary_size(tokens: str) -> int:
    """Return how many different tokens there are by default: 256 bytes or 10,000 words. Raises RequestError."""
    if tokens not in VOCABULARIES:
        raise RequestError(f"data.tokens is {tokens!r}; it takes {' or '.join(VOCABULARIES)}", "data.tokens")
    return VOCABULARIES[tokens]


class Texts:
    """The raw inputs of samples that are texts. Indexing gives their bytes, uint8 (B, longest), padded with 0."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the bytes of the texts with these indices."""
        rows = [list(text.encode()) for text in self.take(indices).texts]
        return _padded(rows, max(map(len, rows), default=0)).to(torch.uint8)

    def take(self, indices: Tensor) -> "Texts":
        """Return a selection of the texts. indices: int64."""
        return Texts([self.texts[number] for number in indices.tolist()])


class TextEncoder:
    """Turns texts into tokens int16 or int32 (N, length), as an Encoder (data/samples.py).

    length: longer texts are cut, and shorter ones are padded with 0. tokens: "bytes" of UTF-8, or "words", which are
    runs of letters in lower case and single other characters. vocabulary: 256 for bytes; for words, token 1 is an
    unknown word, and the others are the most frequent words of the training samples. words: these, from token 2 on.
    column: of a CSV file from which `read` takes texts. Raises RequestError for a value that is not possible.
    """

    def __init__(
        self, length: int, tokens: str = "bytes", vocabulary: int = 256, words: Sequence[str] = (), column: str = ""
    ) -> None:
        standard = vocabulary_size(tokens)
        if length < 1:
            raise RequestError(f"data.length is {length}; it takes 1 or more", "data.length")
        if tokens == "bytes" and vocabulary != standard:
            raise RequestError(
                f"data.vocabulary is {vocabulary}, but there are {standard} bytes; leave it out, or write "
                "data.tokens=words",
                "data.vocabulary",
            )
        if vocabulary < 3:
            raise RequestError(
                f"data.vocabulary is {vocabulary}; two tokens are for padding and unknown words, so that it takes 3 or "
                "more",
                "data.vocabulary",
            )
        self.length, self.tokens, self.vocabulary, self.column = length, tokens, vocabulary, column
        self.words = list(map(str, words))

    def fit(self, samples: Samples) -> None:
        """Learn the most frequent words of the raw training samples; of equally frequent ones, the alphabet decides."""
        if self.tokens == "words":
            counts = Counter(word for text in _texts(samples) for word in split_words(text))
            ranked = sorted(counts, key=lambda word: (-counts[word], word))
            self.words = ranked[: self.vocabulary - 2]

    def encode(self, samples: Samples) -> Samples:
        """Return the samples with tokens in place of texts."""
        return Samples(self.rows(_texts(samples)), samples.targets)

    def rows(self, texts: Sequence[str]) -> Tensor:
        """Return the tokens of texts (N, length)."""
        if self.tokens == "bytes":
            return _padded([list(text.encode()[: self.length]) for text in texts], self.length)
        numbers = {word: number for number, word in enumerate(self.words, 2)}
        return _padded(
            [[numbers.get(word, UNKNOWN) for word in split_words(text)[: self.length]] for text in texts], self.length
        )

    def state(self) -> dict[str, object]:
        """Return the `_target_` and the arguments of an equal encoder."""
        return {
            "_target_": "lamella.data.TextEncoder",
            "length": self.length,
            "tokens": self.tokens,
            "vocabulary": self.vocabulary,
            "words": self.words,
            "column": self.column,
        }

    def read(self, path: str) -> tuple[list[str], Tensor]:
        """Return the text of a file, or the texts in the rows of a CSV file with their names, "new.csv:2".

        Raises RequestError for a file that is empty, binary or not in UTF-8, and for a column that is missing.
        """
        if not self.column or not path.endswith(".csv"):
            return [path], self.rows([decode_text(read_text_file(path), path)])
        table = read_csv(path)
        if self.column not in table.columns:
            raise RequestError(f"{path}: it has no column {self.column}; {nearest(self.column, table.columns)}")
        return [f"{path}:{row}" for row in table.rows], self.rows(table.columns[self.column])

    def noun(self) -> str:
        """Return what is predicted for."""
        return "text"

    def decode(self, outputs: Tensor) -> Tensor:
        """Return the outputs as they are, because targets are classes."""
        return outputs

    def output_names(self) -> list[str]:
        """Return no names, because the outputs are no numbers."""
        return []


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case, and its other characters, in their order."""
    return WORD.findall(text.lower())


def _texts(samples: Samples) -> list[str]:
    if not isinstance(samples.inputs, Texts):
        raise RequestError("data.source: this run was trained on texts, and the samples are none", "data.source")
    return samples.inputs.texts


def _padded(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """Return rows of tokens (N, length), padded with 0."""
    tokens = torch.zeros(len(rows), length, dtype=torch.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row, dtype=torch.int32)
    return tokens
