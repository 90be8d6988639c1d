"""Text: bytes and words as tokens, windows for the next byte, classes of texts, masks of padding, and generation."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Lamella, Result, contents

import lamella as package
from lamella.data import Data, Samples, TextEncoder, characters, docstrings, text
from lamella.data.samples import cut_splits
from lamella.data.text_encoder import Texts
from lamella.errors import RequestError
from lamella.experiment.generation import next_tokens
from lamella.network import plan
from lamella.tables import printable

PROSE = "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n"
SMALL = ("network.width=16", "network.depth=1", "network.heads=2", "visuals=none", "device=cpu", "device.threads=1")
GPT = (
    "experiment=char_gpt",
    *SMALL,
    "data.paths=[notes.txt]",
    "data.length=16",
    "trainer.max_epochs=1",
    "optimizer.lr=1e-2",
    "scheduler.warmup_steps=0",
)


def finished(result: Result, name: str) -> Path:
    assert result.status == 0, result.err
    [run] = Path("outputs", name).iterdir()
    return run


@pytest.fixture
def notes(lamella: Lamella) -> Path:
    Path("notes.txt").write_text(PROSE * 100)
    return Path("notes.txt")


@pytest.fixture
def reviews(lamella: Lamella) -> Path:
    """Texts of two classes, reviews/train/<class>/<number>.txt, which one word tells apart."""
    for number in range(60):
        name, word = ("bad", "dull") if number % 2 else ("good", "bright")
        folder = Path("reviews/train", name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}.txt").write_text(f"A {word} film about number {number}.\n")
    return Path("reviews")


def test_windows_are_shifted_by_one_byte_and_cut_in_parts(notes: Path) -> None:
    source = characters(16, ["notes.txt"], val_size=0.1, test_size=20)
    written, parts = notes.read_bytes(), [source.train, source.val, source.test]
    assert written.isascii()
    read, starts = [], []
    for part in parts:
        assert part is not None
        assert isinstance(part.inputs, torch.Tensor)
        assert (part.inputs.dtype, part.targets.dtype) == (torch.int16, torch.uint8)
        assert torch.equal(part.inputs[:, 1:].long(), part.targets[:, :-1].long())
        assert torch.equal(part.inputs[1:, 0].long(), part.targets[:-1, -1].long())  # windows without gap or overlap
        read.append(bytes(part.inputs.flatten().tolist()))
    test = written[-(20 * 16 + 1) :]
    val = written[: -len(test)][-round(0.1 * len(written)) :]
    for found, expected in zip(read, (written[: -len(test) - len(val)], val, test), strict=True):
        assert found == expected[: len(found)]
        assert 0 < len(expected) - len(found) <= 16
        starts.append(len(found) // 16)
    assert starts[2] == 20
    assert characters(16, ["notes.txt"], val_size=0).val is None


def test_a_folder_is_read_without_what_is_no_text(notes: Path) -> None:
    Path("more").mkdir()
    for name, content in (("a.py", b"x = 1\n" * 20), ("empty.py", b""), ("b.png", b"\x89PNG\0"), (".hidden", b"no")):
        Path("more", name).write_bytes(content)
    source = characters(8, ["more", "note*.txt", "more/a.py"], val_size=0)
    assert source.left_out == "left out: 1 hidden file, 1 binary, 1 empty"
    assert isinstance(source.train.inputs, torch.Tensor)
    assert bytes(source.train.inputs.flatten().tolist()).startswith(b"x = 1\n" * 20 + b"The quick")
    [note] = characters(8, ["notes.txt"], size=1000).notes
    assert note == "data.size is 1,000, so that the other 5,800 bytes of the text are not read"


def test_without_paths_the_standard_library_is_read() -> None:
    first, again = (characters(64, size=100_000).train.targets for _ in range(2))
    assert torch.equal(first, again)
    assert b"def " in bytes(first.flatten().tolist())


def test_words_are_those_of_the_training_samples() -> None:
    samples = Samples(Texts(["The cat. The dog!", "A cat", "the end"]), torch.tensor([0, 1, 0]))
    encoder = TextEncoder(6, "words", 6)
    encoder.fit(samples)
    assert encoder.words == ["the", "cat", "!", "."]  # by frequency, then by the alphabet
    assert encoder.rows(["the Cat ran.", "", "! " * 9]).tolist() == [[2, 3, 1, 5, 0, 0], [0] * 6, [4] * 6]
    state = json.loads(json.dumps(encoder.state()))
    assert state.pop("_target_") == "lamella.data.TextEncoder"
    assert TextEncoder(**state).rows(["the end"]).tolist() == [[2, 1, 0, 0, 0, 0]]
    assert TextEncoder(4).rows(["né", "longer"]).tolist() == [[110, 195, 169, 0], [108, 111, 110, 103]]


@pytest.mark.parametrize("name", ["text_mean", "text_gru", "text_transformer"])
@pytest.mark.slow
def test_padding_changes_nothing(lamella: Lamella, reviews: Path, name: str) -> None:
    heads = ("network.heads=2",) if name == "text_transformer" else ()
    run = finished(
        lamella("train", "data=text", "data.root=reviews", f"network={name}", "network.width=16", *heads,
                "data.length=48", "trainer.max_epochs=20", "data.batch_size=8", "optimizer.lr=1e-2",
                "visuals=none"), "default"
    )  # fmt: skip
    assert json.loads((run / "run.json").read_text())["metrics"]["test/accuracy"] > 0.8
    model: Any = package.load(run)
    short = model.encoder.rows(["A bright film."])
    texts = model.predict(["A bright film.", "A dull film."])
    assert texts.shape == (2, 2)
    with torch.no_grad():
        one = model.network(short[:, :14].long()).softmax(1)  # without the padding
    torch.testing.assert_close(texts[:1], one, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap
def test_a_mask_of_the_single_input_is_a_function_of_it() -> None:
    """So that vmap and torch.export, which call the network without Python's state, read the same mask."""
    entries = [{"Embedding": [9, 4]}, {"SelfAttention": {"heads": 2, "mask": "input"}}, {"Pool": [1, "mean", "input"]}]
    network = plan([{"Sequential": entries}, {"Linear": 2}], (5,), dtype=torch.int64).build().eval()
    x = torch.tensor([[3, 4, 0, 0, 0], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
    expected = network(x)
    torch.testing.assert_close(network(x[:1, :2]), expected[:1])
    exported = torch.export.export(network, (x,)).module()
    torch.testing.assert_close(exported(x.flip(0)), expected.flip(0))
    weights = {name: torch.stack([value, 2 * value]) for name, value in network.state_dict().items()}
    both = torch.func.vmap(lambda one: torch.func.functional_call(network, one, (x,)))(weights)
    torch.testing.assert_close(both[0], expected)


@pytest.mark.slow
def test_bundled_texts_are_of_all_classes_and_unlike() -> None:
    names = ["asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml"]
    samples, again = (docstrings(names, 64).train for _ in range(2))
    assert isinstance(samples.inputs, Texts)
    assert isinstance(again.inputs, Texts)
    assert samples.inputs.texts == again.inputs.texts
    assert len(set(samples.inputs.texts)) == len(samples) > 1500
    assert samples.targets.bincount().min() > 100


@pytest.mark.slow
def test_text_classes_are_told_apart_as_by_scikit_learn(lamella: Lamella) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    run = finished(lamella("train", "experiment=text_classes", "device=cpu"), "text_classes")
    record = json.loads((run / "run.json").read_text())
    names = ["asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml"]
    train, _, test = cut_splits(docstrings(names, 64), 0.1, 0.2, 0)
    vectorizer = TfidfVectorizer()
    regression = LogisticRegression(max_iter=1000)
    regression.fit(vectorizer.fit_transform(train.inputs.texts), train.targets)  # type: ignore[union-attr]
    found = vectorizer.transform(test.inputs.texts)  # type: ignore[union-attr]
    assert record["metrics"]["test/accuracy"] > regression.score(found, test.targets) - 0.03


@pytest.mark.slow
def test_a_text_is_continued_the_same_way_each_time(lamella: Lamella, notes: Path) -> None:
    run = finished(lamella("train", *GPT, "trainer.max_epochs=3"), "char_gpt")
    first, again, other = (
        lamella("predict", str(run), "--prompt", "The qu", "--tokens", "40", *options)
        for options in (
            ("--top", "10"),
            ("--top", "10", "--seed", "0"),
            ("--seed", "1", "--temperature", "5", "--top", "200"),
        )
    )
    assert first.status == 0, first.err
    assert first.out.startswith("The qu")
    assert first.out == again.out != other.out
    model = package.load(run)
    assert first.out == printable("The qu" + model.generate("The qu", tokens=40, top=10)) + "\n"
    best = model.generate("The qu", tokens=40, temperature=0)
    assert best == model.generate("The qu", tokens=40, top=1, seed=7)
    long = f"{PROSE}The quick brown"
    assert model.generate(long, tokens=9) == model.generate(long[-16:], tokens=9)
    result = lamella("predict", str(run), "notes.txt")
    assert result.status == 2
    assert "this run predicts the next byte of a text; write --prompt TEXT" in result.err
    for options, message in {
        ("--prompt", ""): "the prompt is empty",
        ("--prompt", "x", "--temperature", "-1"): "temperature is -1.0; it takes 0 or more",
        ("--prompt", "x", "--tokens", "0"): "tokens is 0; it takes 1 or more",
        ("--prompt", "x", "notes.txt"): "notes.txt: with --prompt, the text is printed and no files are read",
        ("--prompt", "x", "--seed", "-1"): "--seed is -1",
        ("--tokens", "5", "notes.txt"): "--tokens is for a text that is continued; add --prompt TEXT",
        (): "PATH is missing",
        ("--lines", "notes.txt"): "was not trained on texts; leave it out",
    }.items():
        result = lamella("predict", str(run), *options)
        assert result.status == 2, options
        assert message in result.err


def test_tokens_are_drawn_by_their_scores() -> None:
    contexts = []

    def scores(context: torch.Tensor) -> torch.Tensor:
        contexts.append(context.tolist()[0])
        return torch.tensor([0.0, 2.0, 1.0, -50.0])

    drawn = list(next_tokens(scores, [3, 3, 3, 3], 3, 4000, 1.0, 3, 1))
    shares = torch.tensor(drawn).bincount(minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.0, 2.0, 1.0, -50.0]).softmax(0), atol=0.03, rtol=0)
    assert contexts[:2] == [[3, 3, 3], [3, 3, drawn[0]]]
    assert set(next_tokens(scores, [0], 3, 50, 1e-9, 3, 0)) == {1}


@pytest.mark.slow
def test_predictions_of_texts_name_files_lines_and_rows(lamella: Lamella, reviews: Path) -> None:
    rows = [("body", "label"), *((path.read_text().strip(), path.parent.name) for path in reviews.rglob("*.txt"))]
    with Path("all.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    run = finished(
        lamella("train", "data=text_csv", "data.path=all.csv", "data.column=body", "data.target=label",
                "data.tokens=words", "data.vocabulary=50", "data.length=8", "network=text_mean",
                "trainer.max_epochs=20", "data.batch_size=16", "optimizer.lr=3e-2", "visuals=none"), "default"
    )  # fmt: skip
    assert json.loads((run / "preprocessing.json").read_text())["words"][:3] == [".", "a", "about"]
    Path("new.txt").write_text("A bright film.\n\nA dull film.\n")
    assert lamella("predict", str(run), "new.txt", "--lines", "--out", "out.csv").status == 0
    with Path("out.csv").open() as file:
        assert [(row["text"], row["class"]) for row in csv.DictReader(file)] == [
            ("new.txt:1", "good"),
            ("new.txt:3", "bad"),
        ]
    assert lamella("predict", str(run), "all.csv", "new.txt", "--out", "out.jsonl").status == 0
    found = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in found] == [*(f"all.csv:{number}" for number in range(2, 62)), "new.txt"]
    assert [row["class"] for row in found[:-1]] == [name for _, name in rows[1:]]
    by_path, by_text = package.load(run).predict([Path("new.txt")]), package.load(run).predict(["A dull film."])
    assert by_path.shape == by_text.shape == (1, 2)
    result = lamella("predict", str(run), "--prompt", "A")
    assert result.status == 2
    assert "this network does not predict the next byte of a text" in result.err


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no such file": ((*GPT, "data.paths=[none.txt]"), "data.paths: none.txt is no file or folder, and as a pattern"),
    "an empty file": ((*GPT, "data.paths=[empty.txt]"), "data.paths: empty.txt is empty"),
    "a binary file": ((*GPT, "data.paths=[photo.jpg]"), "data.paths: photo.jpg is binary; it takes text, in UTF-8"),
    "a path and no list": ((*GPT, "data.paths=notes.txt"), "paths"),
    "longer than the text": (
        (*GPT, "data.length=9000"),
        "data.length is 9,000, but the text of notes.txt has 6,800 bytes",
    ),
    "longer than a part": ((*GPT, "data.length=400"), "of which 340 are for validation, where a window takes 401"),
    "a byte beyond the vocabulary": (
        (*GPT, "data.paths=[accents.txt]", "data.num_classes=128"),
        "data.num_classes is 128, but accents.txt has the byte 195 at 3",
    ),
    "sees the future": ((*GPT, "network=seeing"), "network: its scores at a position depend on later tokens"),
    "one answer for a window": ((*GPT[:1], *GPT[7:], "network=mean"), "256 classes for each of (16,) positions take"),
    "no embedding": (("data=text", "data.root=reviews", "data.length=16"), "begin with `Embedding: [count, size]`"),
    "augmented": (
        ("data=text", "data.root=reviews", "network=mean", "data.augment=[flip]"),
        "these samples are none",
    ),
    "normalised": (("data=text", "data.root=reviews", "network=mean", "+data.mean=0.5"), "data.mean is 0.5; it"),
    "letters as tokens": (("data=text", "data.root=reviews", "data.tokens=letters"), "it takes bytes or words"),
    "words without words": (
        ("data=text", "data.root=reviews", "network=text_mean", "data.vocabulary=5000"),
        "data.vocabulary is 5000, but there are 256 bytes; leave it out, or write data.tokens=words",
    ),
    "no room for words": (
        ("data=text", "data.root=reviews", "network=text_mean", "data.tokens=words", "data.vocabulary=2"),
        "data.vocabulary is 2; two tokens are for padding and unknown words",
    ),
    "an empty class": (
        ("data=text", "data.root=gaps", "network=text_mean"),
        "there are no texts (.txt) in gaps/train/b",
    ),
    "another encoding": (
        ("data=text", "data.root=old", "network=text_mean"),
        "old/train/a/1.txt is not in UTF-8 (byte 233 at 3); convert it, as by iconv -f latin1 -t utf-8",
    ),
    "another column": (
        ("data=text_csv", "data.path=all.csv", "data.target=label", "network=text_mean"),
        "data.column is 'text'; all.csv has no such column",
    ),
    "a row without text": (
        ("data=text_csv", "data.path=all.csv", "data.target=label", "data.column=body", "network=text_mean"),
        "data.column: in row 3 of all.csv, body holds no text",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(lamella: Lamella, notes: Path, reviews: Path, mistake: str) -> None:
    Path("empty.txt").touch()
    Path("photo.jpg").write_bytes(b"\xff\xd8\xff\0\0")
    Path("accents.txt").write_text("Nam\u00e9lia. " * 100)
    Path("all.csv").write_text("body,label\nA good film,good\n,bad\n")
    for name, content in (("gaps/train/a", b"one"), ("gaps/train/b", None), ("old/train/a", b"caf\xe9")):
        Path(name).mkdir(parents=True)
        if content:
            Path(name, "1.txt").write_bytes(content)
    Path("conf/network").mkdir(parents=True)
    options = "width: 16\ndepth: 1\nheads: 2\n"
    body = "layers:\n  - Embedding: [256, '${network.width}']\n"
    attention = "  - Repeat: ['${network.depth}', [SelfAttention: '${network.heads}']]\n  - Linear: 256\n"
    Path("conf/network/seeing.yaml").write_text(f"class_dim: -1\n{options}{body}{attention}")
    Path("conf/network/mean.yaml").write_text(
        "width: 16\n" + body + "  - Pool: {over: 1, mask: input}\n  - Linear: '${data.num_classes}'\n"
    )
    arguments, message = MISTAKES[mistake]
    before = contents(Path())
    result = lamella("train", *arguments)
    assert result.status == 2, result.out + result.err
    assert message in " ".join(result.err.split()), result.err
    assert len(result.err.splitlines()) <= 10
    assert contents(Path()) == before


def test_texts_need_room_in_every_part(notes: Path, reviews: Path) -> None:
    with pytest.raises(RequestError, match=r"data\.val_size is 1\.5; it takes a number of windows, or a fraction"):
        characters(16, ["notes.txt"], val_size=1.5)
    with pytest.raises(RequestError, match=r"data\.test_size: .* 0 are for test, where a window takes 17"):
        characters(16, ["notes.txt"], test_size=0)
    with pytest.raises(RequestError, match=r"data\.length is 0; it takes 1 or more"):
        text("reviews", ["good", "bad"], 0)
    with pytest.raises(RequestError, match="'nothing', and this Python has no such package"):
        docstrings(["json", "nothing"], 8)
    data = Data(text("reviews", ["good", "bad"], 4), [4], 8, 2, dtype="int64")
    assert data.notes()[0] == "60 of 60 texts are longer than data.length, 4 bytes, and are cut; the longest has 31"
    assert data.notes()[1].startswith("5 of 5 validation samples and 6 of 6 test samples have the input of a training")
