"""Write a network to a file for another runtime, and read the file back with that runtime."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

Runtime = Callable[[Tensor], Tensor]  # a network as another runtime computes it


def write_onnx(network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX model with the input `input`, the output `output` and a dynamic batch size.

    example: a batch (2, …) with which the network is traced.
    """
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["input"],
        output_names=["output"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(path)


def read_onnx(path: Path, network: nn.Module) -> Runtime:
    """Return the network in an ONNX file, computed by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(["output"], {"input": inputs.numpy()})[0])


def write_pt2(network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a program of torch.export with a dynamic batch size and with the metadata as its extra files.

    example: a batch (2, …) with which the network is traced.
    """
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    file = io.BytesIO()  # torch ends the whole process where it cannot write a file itself, as on a full disk
    torch.export.save(program, file, extra_files=dict(metadata))
    path.write_bytes(file.getbuffer())


def read_pt2(path: Path, network: nn.Module) -> Runtime:
    """Return the network in a .pt2 file, which PyTorch runs without the Python code of the network."""
    return torch.export.load(path).module()


def write_safetensors(network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the weights alone, by their names in the network."""
    from safetensors.torch import save_model

    save_model(network, str(path), dict(metadata))


def read_safetensors(path: Path, network: nn.Module) -> Runtime:
    """Load the weights in a .safetensors file into `network`, and return it."""
    from safetensors.torch import load_model

    load_model(network, str(path))
    return network


# By the name of a format: the functions that write and read its files.
FORMATS = {
    "onnx": (write_onnx, read_onnx),
    "pt2": (write_pt2, read_pt2),
    "safetensors": (write_safetensors, read_safetensors),
}
