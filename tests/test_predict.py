"""`lamella predict` and `lamella.load`: what a trained network says of images."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Lamella, contents
from PIL import Image
from torch import Tensor

import lamella as package
from lamella.data.folders import IMAGE_SUFFIXES
from lamella.errors import RequestError


@pytest.fixture
def pictures(run: Path, digit_images: tuple[Tensor, Tensor]) -> Path:
    """The first 40 digits as PNG files, pictures/<label>/<number>.png."""
    for number, (image, label) in enumerate(zip(*digit_images, strict=True)):
        if number < 40:
            folder = Path("pictures") / str(int(label))
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{number:02}.png")
    return Path("pictures")


def by_file(path: Path) -> dict[str, list[float]]:
    with path.open() as file:
        return {row.pop("file"): [float(row[name]) for name in "0123456789"] for row in csv.DictReader(file)}


def test_files_say_what_tensors_say(
    lamella: Lamella, run: Path, pictures: Path, digit_images: tuple[Tensor, Tensor]
) -> None:
    result = lamella("predict", str(run), "pictures", "--out", "out.csv")
    assert result.status == 0, result.err
    found = by_file(Path("out.csv"))
    expected = package.load(run).predict(digit_images[0][:40])
    assert len(found) == 40
    for file, row in found.items():
        assert row == pytest.approx(expected[int(Path(file).stem)].tolist(), abs=1e-6)
    assert expected.sum(1).tolist() == pytest.approx([1.0] * 40)
    assert (expected.argmax(1) == digit_images[1][:40]).float().mean() > 0.9
    assert "images: 40; all in out.csv" in result.out


def test_the_table_ranks_the_classes(lamella: Lamella, run: Path, pictures: Path) -> None:
    [file, *_] = sorted(map(str, pictures.rglob("*.png")))
    result = lamella("predict", str(run), file, "--top", "2")
    [row] = package.load(run).predict([file])
    (first, second), (best, other) = (ranked.tolist() for ranked in row.topk(2))
    assert [line.split() for line in result.out.splitlines()] == [
        ["file", "class", "probability", "2."],
        [file, str(best), f"{first:.4f}", str(other), f"{second:.4f}"],
    ]


def test_where_images_may_come_from(
    lamella: Lamella, run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = sorted(map(str, pictures.rglob("*.png")))
    for given in (["pictures"], every, ["pictures/**/*.png"], ["pictures/0", "pictures", every[3]], ["-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(every) + "\n"))
        assert lamella("predict", str(run), *given, "--out", "out.jsonl").status == 0
        rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
        assert sorted(row["file"] for row in rows) == every
        assert all(row["class"] == max(row["probabilities"], key=row["probabilities"].get) for row in rows)
    assert lamella("predict", str(run), every[0], "--out", "out.json").status == 0
    [row] = json.loads(Path("out.json").read_text())
    assert row["file"] == every[0]
    assert row["probabilities"] == pytest.approx(
        next(r for r in rows if r["file"] == every[0])["probabilities"], abs=1e-6
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "CMYK", "LA"])
@pytest.mark.parametrize("size", [28, 90])
def test_any_mode_and_size(
    lamella: Lamella, run: Path, digit_images: tuple[Tensor, Tensor], mode: str, size: int
) -> None:
    image = Image.fromarray(digit_images[0][7, 0].numpy()).resize((size, size), Image.Resampling.NEAREST)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    file = "x.tif" if mode in ("CMYK", "I;16") else "x.png"
    image = image if mode == "I;16" else image.convert("RGB").convert(mode)
    image.save(file)
    assert lamella("predict", str(run), file, "--out", "x.csv").status == 0
    model = package.load(run)
    row = torch.tensor(by_file(Path("x.csv"))[file])
    assert torch.allclose(row, model.predict([image])[0], atol=1e-6)
    assert int(row.argmax()) == int(digit_images[1][7])


def test_an_unreadable_file_does_not_stop_the_others(lamella: Lamella, run: Path, pictures: Path) -> None:
    (pictures / "text.png").write_text("no image")
    file = next(pictures.glob("0/*.png"))
    (pictures / "cut.png").write_bytes(file.read_bytes()[:60])
    result = lamella("predict", str(run), "pictures", "--out", "out.csv")
    assert result.status == 1
    assert "skipped: pictures/text.png is no readable image (cannot identify image file" in result.err
    assert "skipped: pictures/cut.png is no readable image" in result.err
    assert "error: 2 of 42 files cannot be read as images" in result.err
    assert len(by_file(Path("out.csv"))) == 40


REFUSED = {
    "empty": "empty: no images in this folder; their names end with .bmp, .gif",
    "none.png": "none.png: there is no such file or folder, and as a pattern it matches none",
    "none/*.png": "none/*.png: there is no such file or folder, and as a pattern it matches none",
    "-": "-: no path came on standard input",
    "x.png --top 0": "--top is 0; it takes 1 or more",
    "x.png --out x.txt": "--out x.txt: the name must end in .csv, .json or .jsonl",
    "x.png --out none/x.csv": "--out none/x.csv: there is no directory none",
    "x.png --checkpoint none": "none: there is no such checkpoint",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_wrong_requests(lamella: Lamella, run: Path, arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    Image.new("L", (28, 28)).save("x.png")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    before = contents(Path())
    result = lamella("predict", str(run), *arguments.split())
    assert result.status == 2
    assert result.err.startswith(f"error: {REFUSED[arguments]}")
    assert contents(Path()) == before


@pytest.mark.slow
def test_folders_of_ones_own_images(lamella: Lamella, image_root: Path) -> None:
    """Trained and asked without any data set: the classes are those of the folders."""
    own = ("data=image_folder", f"data.root={image_root}", "data.shape=[3,32,32]", "network=cnn")
    assert lamella("train", *own, "trainer.max_epochs=6").status == 0
    [run] = Path("outputs/default").iterdir()
    image_root.rename(image_root.parent / "elsewhere")
    model = package.load(run)
    assert model.classes == ["one", "two", "zero"]
    files = sorted((image_root.parent / "elsewhere/train/zero").iterdir())
    result = lamella("predict", str(run), *map(str, files), "--out", "x.csv")
    assert result.status == 0, result.err
    rows = list(csv.DictReader(io.StringIO(Path("x.csv").read_text())))
    assert [row["class"] for row in rows].count("zero") > 0.8 * len(files)


def test_one_image_in_every_form(run: Path, digit_images: tuple[Tensor, Tensor]) -> None:
    model, images = package.load(run), digit_images[0][:5]
    pil = [Image.fromarray(image[0].numpy()) for image in images]
    expected = model.predict(images)
    assert torch.equal(model.predict(pil), expected)
    assert torch.equal(model.predict(model.preprocess(images)), expected)
    assert model.preprocess(images).shape == (5, 1, 28, 28)
    assert not model.network.training
    assert model.predict(images[:0]).shape == (0, 10)
    for wrong in ("x.png", Path("x.png"), pil[0], None):
        with pytest.raises(RequestError, match="predict takes a list of paths or images, or a tensor"):
            model.predict(wrong)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(RequestError, match="device 'cuda' cannot be used"):
            package.load(run, device="cuda")


@pytest.mark.slow
def test_what_a_network_of_numbers_gives(lamella: Lamella) -> None:
    assert lamella("train", "data=tensors", "network=affine", "loss=mse", "monitor=val/loss").status == 0
    [run] = Path("outputs/default").iterdir()
    model, inputs = package.load(run), torch.ones(2, 5)
    with torch.no_grad():
        assert torch.equal(model.predict(inputs), model.network(inputs))
    assert model.classes is None
    Image.new("L", (5, 5)).save("x.png")
    result = lamella("predict", str(run), "x.png")
    assert result.status == 2
    assert "its network gives numbers, not classes; lamella.load(…).predict(…) in Python takes tensors" in result.err
    with pytest.raises(RequestError, match="was not trained on images; it takes a tensor of floats"):
        model.predict(["x.png"])
    with pytest.raises(RequestError, match=r"the inputs are \(2, 4\); the network takes \(N, 5\)"):
        model.predict(torch.ones(2, 4))


def test_loading_leaves_the_random_numbers_alone(run: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    package.load(run)
    assert torch.equal(torch.rand(2), expected)


def test_every_ending_of_an_image_is_one_that_pillow_reads() -> None:
    assert set(Image.registered_extensions()) >= IMAGE_SUFFIXES
