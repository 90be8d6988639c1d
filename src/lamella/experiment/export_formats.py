"""A network as a file for other runtimes: written, and read back by that runtime. Each pair is one format."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

Runtime = Callable[[Tensor], Tensor]
BATCH = torch.export.Dim("batch")


def write_onnx(network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    """ONNX with a dynamic batch; input `input` and output `output`. example: (2, …)."""
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: BATCH},),
        input_names=["input"],
        output_names=["output"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(path)


def read_onnx(path: Path, network: nn.Module) -> Runtime:
    """What the file gives in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(["output"], {"input": inputs.numpy()})[0])


def write_pt2(network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    """A program of torch.export with a dynamic batch; the metadata are its extra files. example: (2, …)."""
    program = torch.export.export(network, (example,), dynamic_shapes=({0: BATCH},))
    torch.export.save(program, path, extra_files=dict(metadata))


def read_pt2(path: Path, network: nn.Module) -> Runtime:
    """What the file gives in PyTorch, which needs no code of the network's for it."""
    return torch.export.load(path).module()


def write_safetensors(network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    """The weights alone, by their names in the network."""
    from safetensors.torch import save_model

    save_model(network, str(path), dict(metadata))


def read_safetensors(path: Path, network: nn.Module) -> Runtime:
    """What the weights give in `network`, which has had others."""
    from safetensors.torch import load_model

    load_model(network, str(path))
    return network


FORMATS = {
    "onnx": (write_onnx, read_onnx),
    "pt2": (write_pt2, read_pt2),
    "safetensors": (write_safetensors, read_safetensors),
}
