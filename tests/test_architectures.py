"""The networks in conf/network that are YAML alone: the weights and outputs of modules that are written by hand."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, gelu, pad, relu, scaled_dot_product_attention

from lamella.config.files import SHIPPED
from lamella.config.guard import register_resolvers
from lamella.network.plan import Plan, plan


def planned(name: str, shape: tuple[int, ...], classes: int, **scalars: object) -> Plan:
    """Plan `network=name` for data of this shape, with other values for the scalars of its file."""
    register_resolvers()
    data = {"num_classes": classes, "shape": list(shape)}
    config = OmegaConf.create({"network": OmegaConf.load(SHIPPED / "network" / f"{name}.yaml"), "data": data})
    config.network.update(scalars)
    network: Any = OmegaConf.to_container(config.network, resolve=True)
    dtype = torch.int64 if name == "gpt" else torch.float32
    return plan(network["layers"], shape, network["name"], dtype=dtype)


def conv3(inputs: int, outputs: int, stride: int = 1, bias: bool = False, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=bias)


class Stack(nn.Module):
    """Layers in the order in which their weights are drawn; a subclass says how they are run."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def run(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        for layer in self.layers[first:last]:
            x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return adaptive_avg_pool2d(x, 1).flatten(1)


class BasicBlock(Stack):
    def __init__(self, inputs: int, outputs: int) -> None:
        self.stride = 2 if outputs > inputs else 1
        first, last = conv3(inputs, outputs, self.stride), conv3(outputs, outputs)
        super().__init__(first, nn.BatchNorm2d(outputs), nn.ReLU(), last, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.run(x)
        if self.stride == 2:
            quarter = y.shape[1] // 4
            x = pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return relu(y + x)


def resnet20() -> nn.Module:
    stem = conv3(3, 16), nn.BatchNorm2d(16), nn.ReLU()
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [BasicBlock(inputs, outputs) for inputs, outputs in pairwise(widths)]
    return nn.Sequential(*stem, *blocks, Mean(), nn.Linear(64, 10))


class SEBlock(Stack):
    def __init__(self, width: int, squeezed: int) -> None:
        body = conv3(width, width), nn.BatchNorm2d(width), nn.ReLU(), conv3(width, width), nn.BatchNorm2d(width)
        gate = nn.Conv2d(width, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, width, 1), nn.Sigmoid()
        super().__init__(*body, *gate)

    def forward(self, x: Tensor) -> Tensor:
        y = self.run(x, 0, 5)
        return relu(y * self.run(adaptive_avg_pool2d(y, 1), 5) + x)


def se_resnet() -> nn.Module:
    stem = conv3(1, 16), nn.BatchNorm2d(16), nn.ReLU()
    stages = [layer for _ in range(2) for layer in (SEBlock(16, 4), SEBlock(16, 4), nn.MaxPool2d(2))]
    return nn.Sequential(*stem, *stages, Mean(), nn.Linear(16, 10))


def mobilenet() -> nn.Module:
    layers: list[nn.Module] = [conv3(3, 32), nn.BatchNorm2d(32), nn.ReLU()]
    width = 32
    for outputs, stride in [(64, 1), (128, 2), *[(128, 1)] * 5, (256, 2)]:
        layers += [conv3(width, width, stride, groups=width), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        width = outputs
    return nn.Sequential(*layers, Mean(), nn.Linear(width, 10))


class Token(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1)


class PositionsByHand(nn.Module):
    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.positions


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 64, 4, 4)
        self.token = Token(64)
        self.positions = PositionsByHand(50, 64)
        blocks = [nn.TransformerEncoderLayer(64, 4, 256, 0.0, "gelu", 1e-5, True, True) for _ in range(4)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.positions(self.token(self.patches(x).flatten(2).transpose(1, 2)))
        output: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return output


class MixerBlock(nn.Module):
    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.over_patches = nn.Sequential(nn.Linear(patches, width // 2), nn.GELU(), nn.Linear(width // 2, patches))
        self.norm2 = nn.LayerNorm(width)
        self.over_features = nn.Sequential(nn.Linear(width, width * 4), nn.GELU(), nn.Linear(width * 4, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_patches(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        output: Tensor = x + self.over_features(self.norm2(x))
        return output


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 64, 4, 4)
        self.blocks = nn.Sequential(*[MixerBlock(49, 64) for _ in range(4)])
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.patches(x).flatten(2).transpose(1, 2)))
        output: Tensor = self.head(x.mean(1))
        return output


class DenseLayer(Stack):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.run(x)], 1)


def densenet() -> nn.Module:
    layers: list[nn.Module] = [conv3(1, 24)]
    width = 24
    for block in range(3):
        for _ in range(4):
            layers.append(DenseLayer(nn.BatchNorm2d(width), nn.ReLU(), conv3(width, 12)))
            width += 12
        if block < 2:
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1, bias=False), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), Mean(), nn.Linear(width, 10))


class InceptionModule(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(inputs, 32, 1), nn.ReLU())
        three = nn.Conv2d(inputs, 16, 1), nn.ReLU(), conv3(16, 32, bias=True), nn.ReLU()
        self.three = nn.Sequential(*three)
        five = nn.Conv2d(inputs, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 5, padding=2), nn.ReLU()
        self.five = nn.Sequential(*five)
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(inputs, 16, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


def inception() -> nn.Module:
    stem = conv3(1, 32, bias=True), nn.ReLU(), nn.MaxPool2d(2)
    modules = [InceptionModule(32), InceptionModule(96), nn.MaxPool2d(2), InceptionModule(96), InceptionModule(96)]
    return nn.Sequential(*stem, *modules, Mean(), nn.Linear(96, 10))


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    first, norm = conv3(inputs, outputs, bias=True), nn.BatchNorm2d(outputs)
    return nn.Sequential(first, norm, nn.ReLU(), conv3(outputs, outputs, bias=True), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = double_conv(3, 16)
        self.down2 = double_conv(16, 32)
        self.bottom = double_conv(32, 64)
        self.rise2 = nn.ConvTranspose2d(64, 32, 2, 2)
        self.up2 = double_conv(64, 32)
        self.rise1 = nn.ConvTranspose2d(32, 16, 2, 2)
        self.up1 = double_conv(32, 16)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        full = self.down1(x)
        half = self.down2(nn.functional.max_pool2d(full, 2))
        low = self.bottom(nn.functional.max_pool2d(half, 2))
        half = self.up2(torch.cat([half, self.rise2(low)], 1))
        output: Tensor = self.head(self.up1(torch.cat([full, self.rise1(half)], 1)))
        return output


class GPTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.rise = nn.Linear(width, 4 * width)
        self.fall = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).split(width, 2)
        query, key, value = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        read = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(read.transpose(1, 2).reshape(batch, length, width))
        output: Tensor = x + self.fall(gelu(self.rise(self.norm2(x))))
        return output


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(65, 128)
        self.positions = PositionsByHand(32, 128)
        self.blocks = nn.Sequential(*[GPTBlock(128, 4) for _ in range(4)])
        self.norm = nn.LayerNorm(128)
        self.head = nn.Linear(128, 65)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.positions(self.embedding(tokens))
        output: Tensor = self.head(self.norm(self.blocks(x)))
        return output


# By name: the module by hand, the shape of a sample, the number of classes, the shape of the output.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, tuple[int, ...]]] = {
    "resnet20": (resnet20, (3, 32, 32), 10, (10,)),
    "se_resnet": (se_resnet, (1, 28, 28), 10, (10,)),
    "mobilenet": (mobilenet, (3, 32, 32), 10, (10,)),
    "vit": (ViT, (1, 28, 28), 10, (10,)),
    "mixer": (Mixer, (1, 28, 28), 10, (10,)),
    "densenet": (densenet, (1, 28, 28), 10, (10,)),
    "inception": (inception, (1, 28, 28), 10, (10,)),
    "unet": (UNet, (3, 16, 24), 5, (5, 16, 24)),
    "gpt": (GPT, (32,), 65, (32, 65)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_yaml_is_the_module_by_hand(name: str) -> None:
    by_hand, shape, classes, output = NETWORKS[name]
    network = planned(name, shape, classes)
    assert network.output == output
    torch.manual_seed(5)
    built = network.build()
    torch.manual_seed(5)
    expected = by_hand()
    mine, theirs = list(built.state_dict().values()), list(expected.state_dict().values())
    # The weights of both are drawn alike, in one order; the token of the ViT has a dimension more by hand.
    assert all(torch.equal(a.flatten(), b.flatten()) for a, b in zip(mine, theirs, strict=True))
    for network_ in (built, expected):
        torch.manual_seed(7)
        for parameter in network_.parameters():
            parameter.data.add_(torch.randn(parameter.numel()).view_as(parameter) * 0.1)  # also to zeros and ones
    inputs = torch.randint(0, classes, (2, *shape)) if name == "gpt" else torch.rand(2, *shape)
    assert torch.equal(built.eval()(inputs), expected.eval()(inputs))
    torch.testing.assert_close(built.train()(inputs), expected.train()(inputs))


def count(name: str, shape: tuple[int, ...], classes: int, **scalars: object) -> int:
    return sum(row.parameters for row in planned(name, shape, classes, **scalars).trace)


def test_parameters_are_those_of_the_papers() -> None:
    assert count("resnet20", (3, 32, 32), 10) == 269_722  # "0.27M"
    assert count("resnet20", (3, 32, 32), 10, blocks=9) == 853_018  # ResNet-56, "0.85M"
    # ViT-B/16 at 224 pixels with 1000 classes, as torchvision's vit_b_16
    assert count("vit", (3, 224, 224), 1000, width=768, depth=12, heads=12, patch=16) == 86_567_656
    # GPT-2 without its tied head: 124,439,808 weights, whose head is another matrix and a bias here
    gpt2 = count("gpt", (1024,), 50_257, width=768, depth=12, heads=12)
    assert gpt2 == 124_439_808 + 768 * 50_257 + 50_257


@pytest.mark.parametrize("name", NETWORKS)
def test_each_scalar_changes_the_network(name: str) -> None:
    _, shape, classes, output = NETWORKS[name]
    written: Any = OmegaConf.to_container(OmegaConf.load(SHIPPED / "network" / f"{name}.yaml"))
    numbers = {key: value for key, value in written.items() if isinstance(value, int | float) and key != "class_dim"}
    assert len(numbers) >= 1
    before = planned(name, shape, classes).trace
    for key, value in numbers.items():
        if key != "dropout":
            other = planned(name, shape, classes, **{key: 2 if key == "patch" else value * 2})
            assert other.output == output
            assert key == "heads" or other.trace != before


def test_a_position_of_the_gpt_reads_no_later_token() -> None:
    network = planned("gpt", (8,), 20, dropout=0.0).build().eval()
    tokens = torch.randint(0, 20, (1, 8))
    changed = tokens.clone()
    changed[0, 5:] = (tokens[0, 5:] + 1) % 20
    before, after = network(tokens), network(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])
    assert network(tokens[:, :3]).shape == (1, 3, 20)  # a shorter text
