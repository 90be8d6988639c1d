"""What `lamella predict` does where a network gives pictures: masks, or the images that an autoencoder draws again."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from lamella.experiment.model import Model


class Pictures:
    """Turns predictions into pictures, which are PNG files in a folder, and into numbers, which fit into a table.

    A mask has the size of its image, and is a picture with a palette: its pixels are class indices, and a viewer shows
    a colour for each class. folder: None to write no pictures. files: the images. Raises RequestError for a folder that
    cannot be made, and for pictures of the same name.
    """

    def __init__(self, model: "Model", folder: Path | None, files: Sequence[str]) -> None:
        self.model, self.folder = model, folder
        self.heads = model.output_names if model.has_masks else ["loss"]
        if folder is None:
            return
        if folder.exists() and not folder.is_dir():
            raise RequestError(f"--out {folder}: its network gives pictures, and this is no folder for them")
        made: dict[Path, str] = {}
        for file in files:
            path = self._path(file)
            if (first := made.setdefault(path, file)) != file:
                raise RequestError(
                    f"--out {folder}: {first} and {file} would both give {path}; predict them "
                    "one after the other, into two folders"
                )
            if path.exists() and path.samefile(file):
                raise RequestError(f"--out {folder}: {file} would be replaced; take another folder")
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RequestError(f"--out {folder}: cannot write there ({error.strerror})") from error

    def add(self, file: str, answer: "Tensor") -> "Tensor":
        """Write the picture for a file, and return the share of each class (classes,), or the loss (1,).

        answer: as `Model.predict` gives it for one image. Raises RequestError if the picture cannot be written.
        """
        import torch

        if self.folder is not None:
            path = self._path(file)
            try:
                (self._mask(file, answer) if self.model.has_masks else self._image(answer)).save(path)
            except OSError as error:
                raise RequestError(f"--out {path}: cannot write there ({error.strerror or error})") from error
        if self.model.has_masks:
            return torch.bincount(answer.argmax(0).flatten(), minlength=len(answer)) / answer[0].numel()
        return self.model.objective(answer[None], self.model.preprocess([file]).cpu()).reshape(1)

    def lines(self, rows: "Sequence[Tensor]") -> list[list[str]]:
        """Return the headings, and what `add` has returned for each picture as text."""
        form = "{:.1%}" if self.model.has_masks else "{:.4f}"
        return [self.heads, *([form.format(value) for value in row.tolist()] for row in rows)]

    def _path(self, file: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{Path(file).stem}.png"

    def _mask(self, file: str, probabilities: "Tensor") -> "Image.Image":
        """Return a mask of the size of its image, by nearest neighbour."""
        from PIL import Image

        from lamella.data.decoder import open_image, upright_size
        from lamella.data.masks import mask_picture

        with open_image(file) as image:
            size = upright_size(image)
        return mask_picture(probabilities.argmax(0)).resize(size, Image.Resampling.NEAREST)

    def _image(self, output: "Tensor") -> "Image.Image":
        """Return the image that a network has drawn again."""
        from PIL import Image

        normalize = self.model.normalize
        assert normalize is not None
        pixels = (normalize.pixels(output).clamp(0, 1) * 255).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy())
