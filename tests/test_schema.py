"""`lamella schema`: every shipped config validates, wrong ones do not, and an editor completes and checks from it."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any

import check_jsonschema
import click.testing
import programs
import pytest
from conftest import Lamella, Project, Shared, contents
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from language_server import PROGRAM, LanguageServer
from referencing import Registry, Resource
from ruamel.yaml import YAML

from lamella.config.files import GROUPS, SHIPPED
from lamella.editors.calls import argument_schema
from lamella.editors.vscode import with_schemas
from lamella.errors import RequestError
from lamella.network.shape_inference import layer_class, layer_names
from lamella.signatures import check_arguments, parameters

EXAMPLES = Path(__file__).parents[1] / "examples"
Validator = Callable[[str], Draft202012Validator]


def validators(directory: Path) -> Validator:
    """Return the validator of each schema in a directory, by its name."""
    schemas = {path.name: json.loads(path.read_text()) for path in directory.glob("*.json")}

    def retrieve(uri: str) -> Any:
        return Resource.from_contents(schemas[uri])

    registry: Any = Registry(retrieve=retrieve)  # type: ignore[call-arg]
    return lambda name: Draft202012Validator({"$ref": f"{name}.json"}, registry=registry)


@pytest.fixture(scope="session")
def schemas(shared: Shared) -> Path:
    """The schemas of a directory without a project; not to be changed."""
    return shared("schemas", lambda path: programs.run(path, "schema", "schema", "--vscode")) / "schema"


def errors(validator: Draft202012Validator, text: str) -> set[str]:
    """Return the places of the errors in a YAML file, such as layers.0.Conv2d."""
    found = validator.iter_errors(YAML(typ="safe").load(text))
    return {".".join(map(str, place)) for error in found for place in places(error)}


def places(error: ValidationError) -> Iterator[tuple[object, ...]]:
    """Yield where an error is: of unknown keys the keys themselves, as an editor marks them."""
    path, schema = (*error.absolute_path,), error.schema
    if error.validator == "additionalProperties":
        patterns = "|".join(schema.get("patternProperties", {"(?!)": True}))
        unknown = [
            key for key in error.instance if key not in schema.get("properties", {}) and not re.search(patterns, key)
        ]
        yield from ((*path, key) for key in unknown)
    elif "propertyNames" in error.absolute_schema_path:
        yield (*path, error.instance)
    else:
        yield path


@pytest.mark.slow(seconds=6)
@pytest.mark.parametrize("name", [*GROUPS, "experiment", "config"])
def test_every_shipped_config_validates(schemas: Path, name: str) -> None:
    files = (
        [SHIPPED / "config.yaml", SHIPPED / "sweep.yaml"] if name == "config" else [*(SHIPPED / name).glob("*.yaml")]
    )
    assert files
    # The schema itself is checked too.
    arguments = ["--schemafile", str(schemas / f"{name}.json"), *map(str, files)]
    done = click.testing.CliRunner().invoke(check_jsonschema.main, arguments)
    assert done.exit_code == 0, done.output


# A wrong file of each group, and where the error is.
WRONG = {
    "network": [
        ("layers: [Conv2D]", "layers.0"),
        ("layers: [ReLu]", "layers.0"),
        ("layers: [Linear]", "layers.0"),
        ("layers: [Bilinear]", "layers.0"),
        ("layers: [{Dense: 64}]", "layers.0.Dense"),
        ("layers: [{Linear: big}]", "layers.0.Linear"),
        ("layers: [{Linear: 0}]", "layers.0.Linear"),
        ("layers: [{Linear: {out_features: 5, bais: true}}]", "layers.0.Linear.bais"),
        ("layers: [{Conv2d: 32}]", "layers.0.Conv2d"),
        ("layers: [{Conv2d: {out_channels: 3}}]", "layers.0.Conv2d"),
        ("layers: [{Conv2d: {out_channels: 3, kernel_size: [3, 0]}}]", "layers.0.Conv2d.kernel_size.1"),
        ("layers: [{Conv2d: {out_channels: 3, kernel_size: 3, padding_mode: zero}}]", "layers.0.Conv2d.padding_mode"),
        ("layers: [{Conv2d: [3, 3, fast]}]", "layers.0.Conv2d.2"),
        ("layers: [{Dropout: [0.1, false, 3]}]", "layers.0.Dropout"),
        ("layers: [{Linear: 5, ReLU: null}]", "layers.0.Linear layers.0.ReLU"),
        ("layers: {Linear: [ReLU]}", "layers.Linear"),
        ("layers: {stem: [ReLU], head: [{Linear: true}]}", "layers.head.0.Linear"),
        ("layers: [3]", "layers.0"),
        ("layers: [{Repeat: {times: 2}}]", "layers.0.Repeat"),
        ("layers: [{Repeat: {times: -1, layers: [ReLU]}}]", "layers.0.Repeat.times"),
        ("layers: [{Repeat: {times: 2, layers: [Rélu]}}]", "layers.0.Repeat.layers.0"),
        ("layers: [{Residual: {layers: [ReLU], short: []}}]", "layers.0.Residual.short"),
        ("layers: [{Concat: [[ReLU], [Tanhh]]}]", "layers.0.Concat.1.0"),
        ("layers: [{Pool: [1, mid]}]", "layers.0.Pool.1"),
        ("layers: [{GRU: {hidden_size: 8, take: last}}]", "layers.0.GRU.take"),
        ("layers: [{_target_: torch.nn.Lineer, out_features: 3}]", "layers.0._target_"),
        ("_target_: torchvision.models.resnet19", "_target_"),
        ("defaults: [mlpp, _self_]", "defaults.0"),
        ("layers: [ReLU]\nfreeze: body.*", "freeze"),
    ],
    "optimizer": [
        ("_target_: torch.optim.Adamm", "_target_"),
        ("_target_: os.system", "_target_"),
        ("_target_: torch.optim.Adam\nlrr: 1e-3", "lrr"),
        ("_target_: torch.optim.Adam\nlr: fast", "lr"),
        ("_target_: torch.optim.Adam\nbetas: 0.9", "betas"),
        ("_target_: torch.optim.Adam\nlr: 1e-3\ngroups: [{weight_decay: 0}]", "groups.0"),
        ("_target_: torch.optim.Adam\nlr: 1e-3\ngroups: [{match: norms, weight_decai: 0}]", "groups.0.weight_decai"),
        ("_target_: torch.optim.Adam\nlr: 1e-3\nlayer_decay: 2", "layer_decay"),
        ("generator: {_target_: torch.optim.Adam, match: g.*, every: 0}", "generator.every"),
    ],
    "scheduler": [
        ("_target_: torch.optim.lr_scheduler.StepLR\ninterval: batch", "interval"),
        ("_target_: torch.optim.lr_scheduler.StepLR\nstep_size: 3\ngama: 0.1", "gama"),
        (
            "_target_: torch.optim.lr_scheduler.ChainedScheduler\n"
            "schedulers: [{_target_: torch.optim.lr_scheduler.StepLR}]",
            "schedulers.0",
        ),
    ],
    "loss": [
        ("_target_: torch.nn.CrosEntropyLoss", "_target_"),
        ("_target_: torch.nn.CrossEntropyLoss\nlabel_smoothing: much", "label_smoothing"),
        ("_target_: torch.nn.MSELoss\nweight: balanced", "weight"),
        ("_target_: torch.nn.MSELoss\nreduction: sum", "reduction"),
    ],
    "data": [
        ("defaults: [default, _self_]\nsource: {_target_: lamella.data.digit}", "source._target_"),
        ("defaults: [default, _self_]\nsource: {_target_: lamella.data.csv, paht: x.csv}", "source.paht"),
        ("defaults: [default, _self_]\nbatch_sise: 3", "batch_sise"),
        ("augment: [flip, {crp: 4}]", "augment.1.crp"),
        ("augment: [flop]", "augment.0"),
        ("augment: [{crop: wide}]", "augment.0.crop"),
        ("augment: [{_target_: torchvision.transforms.v2.RandomResizedCrop, sise: 3}]", "augment.0 augment.0.sise"),
    ],
    "device": [("accelerator: gpu", "accelerator"), ("accelerator: cpu\nthreads: 0", "threads")],
    "trainer": [
        ("max_epochs: 0", "max_epochs"),
        ("max_epoch: 3", "max_epoch"),
        ("ema: 1.5", "ema"),
        ("checkpoint_every: 5", "checkpoint_every"),
        ("callbacks: [{_target_: pytorch_lightning.callbacks.EarlyStoping}]", "callbacks.0._target_"),
        ("callbacks: [{_target_: pytorch_lightning.callbacks.EarlyStopping}]", "callbacks.0"),
    ],
    "visuals": [("graph: {_target_: lamella.visuals.Grap}", "graph._target_"), ("graph: true", "graph")],
    "metrics": [("top5: {_target_: torchmetrics.Accuracy, topk: 5}", "top5.topk"), ("5top: {}", "5top")],
    "task": [("_target_: lamella.Tusk", "_target_")],
    "experiment": [
        ("defaults: [override /network: mpl]", "defaults.0.override /network"),
        ("defaults: [override /netwrk: mlp]", "defaults.0.override /netwrk"),
        ("optimiser: {lr: 1e-3}", "optimiser"),
        ("optimizer: {lr: high}", "optimizer.lr"),
        ("network: {layers: [ReLUU]}", "network.layers.0"),
        ("network: {defaults: [mlp]}", "network.defaults"),
        ("seed: -1", "seed"),
        ("name: a/b", "name"),
        ("sweep: {ovr: [seed]}", "sweep.ovr"),
    ],
    "config": [("defaults: [{network: mpl}]", "defaults.0.network"), ("trainer: {profile: 3}", "trainer.profile")],
}


@pytest.mark.parametrize(("name", "text", "place"), [(name, *case) for name, cases in WRONG.items() for case in cases])
def test_an_error_is_reported_at_its_place(schemas: Path, name: str, text: str, place: str) -> None:
    assert errors(validators(schemas)(name), text) == set(re.split(" (?=layers|augment)", place))


RIGHT = [
    ("network", "layers: [{Linear: in}, {Linear: '${network.width}'}, '${network.norm}', ReLU, null, []]"),
    ("network", "layers: {stem: ReLU, body: {a: [Flatten], B: ReLU}, head: {Linear: {out_features: 3}}}"),
    ("network", "layers: [{Conv2d: '${network.conv}'}, {MaxPool2d: [3, 1]}, {Permute: [0, 2, 1]}, {Identity: [1, x]}]"),
    ("network", "layers: [{Repeat: [2, [ReLU]]}, {Repeat: {times: '???', layers: '${network.block}'}}]"),
    ("network", "layers: [{Add: {a: [], b: ReLU}}, {Sequential: [ReLU]}, {Residual: {layers: [ReLU], shortcut: []}}]"),
    ("network", "layers: [{_target_: torch.nn.modules.linear.Linear, x: 3}, {_target_: torchvision.models.resnet18}]"),
    ("network", "generator: {layers: [ReLU], shape: [3]}\ncritic: {_target_: lamella.network.Affine}\nwidth: 3"),
    ("network", "_target_: torchvision.models.resnet18\nnum_classes: 3\nweights: {from: DEFAULT, skip: [fc.*]}"),
    ("optimizer", "_target_: torch.optim.adam.Adam\nanything: 3"),
    ("optimizer", "generator: {_target_: torch.optim.Adam, match: g.*, lr: 1e-3}\ngroups: null"),
    ("loss", "_target_: torch.nn.CrossEntropyLoss\nweight: balanced"),
    ("loss", "_target_: torch.nn.BCEWithLogitsLoss\npos_weight: [1, 2]"),
    ("data", "augment: [flip, {crop: 4}, {crop: {padding: 4}}, {mixup: 0.2}]"),
    ("data", "augment: [{_target_: torchvision.transforms.v2.GaussianBlur, kernel_size: 3, per: batch}]"),
    ("scheduler", "_target_: torch.optim.lr_scheduler.OneCycleLR\nmax_lr: '${optimizer.lr}'\ntotal_steps: null"),
    ("visuals", "defaults: [default, _self_]\nsamples: {count: 3}"),
    ("experiment", "defaults: [mnist_cnn, override /hydra/sweeper: optuna, override /metrics: [f1], _self_]"),
    ("experiment", "hydra: {sweeper: {n_trials: 3}}\nmetrics: {}\nseed: '${oc.env:SEED}'"),
    ("experiment", "network: {_target_: torchvision.models.resnet18, freeze: {fc.*: 3}}"),
]


@pytest.mark.parametrize(("name", "text"), RIGHT)
def test_what_a_run_takes_is_no_error(schemas: Path, name: str, text: str) -> None:
    assert errors(validators(schemas)(name), text) == set()


def test_an_argument_takes_what_the_check_of_a_config_takes() -> None:
    values = [None, True, False, 3, -7, 0.5, "zeros", "mean", "text", [1, 2], ["a"], {}, {"a": 1}]
    for name in layer_names():
        cls = layer_class(name)
        assert cls
        for key, parameter in parameters(cls).items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            schema = argument_schema(parameter.annotation, Parameter.empty, words="^$")
            validator = Draft202012Validator(schema)
            for value in values:
                taken = is_taken(key, parameter, value)
                assert validator.is_valid(value) == taken, (name, key, value)


def is_taken(key: str, parameter: Parameter, value: object) -> bool:
    try:
        check_arguments({key: parameter}, {key: value}, place="", title="")
    except RequestError:
        return False
    return True


def test_each_layer_is_described(schemas: Path) -> None:
    definitions = json.loads((schemas / "network.json").read_text())["$defs"]
    convolution = definitions["Conv2d"]
    assert convolution["description"].startswith("Applies a 2D convolution over an input signal")
    assert convolution["properties"]["stride"]["default"] == 1
    assert convolution["properties"]["stride"]["description"] == "Stride of the convolution."
    assert definitions["LSTM"]["description"].startswith("Apply a multi-layer long short-term memory")
    assert definitions["Pool"]["properties"]["how"]["anyOf"][0]["enum"] == ["mean", "max", "first", "last"]
    trainer = json.loads((schemas / "trainer.json").read_text())["properties"]
    assert trainer["ema"]["description"].startswith("0.999 averages the weights")


MINE = """
from __future__ import annotations
from enum import Enum
from typing import Literal
import torch
from torch import nn
from lamella.data import Splits
__all__ = ["Net", "missing"]
class Mode(Enum):
    A = 1
def samples(count: int) -> Splits: ...
def build(width: int, **others: torch.Tensr): ...
def mode(width: int, how: Literal[Mode.A, "fast"] = "fast"): ...
def annotated(width: int) -> nn.Modul: ...
class Net(nn.Module):
    \"\"\"Doubles what comes in. And more.\"\"\"
    def __init__(self, classes: int, wide: bool = False):
        super().__init__()
    def forward(self, x):
        return x * 2
"""


def test_the_classes_of_the_project_are_targets(lamella: Lamella, project: Project) -> None:
    conf = {
        "network/mine.yaml": "layers: [Flatten]\nwidth: 3\n",
        "data/mine.yaml": "radius: 3\nshape: ['${data.radius}']\n",
    }
    project(conf, mine=MINE, broken="import nothing_like_this\n", script="import sys\nsys.exit('usage')\n")
    result = lamella("schema")
    assert result.status == 0, result.err
    assert "12 schemas in .lamella/schema" in result.out.replace(str(len(GROUPS) + 2), "12")
    assert "note: broken cannot be imported, so nothing in it is offered: No module named" in result.out
    assert "note: script cannot be imported, so nothing in it is offered: usage" in result.out
    of = validators(Path(".lamella/schema"))
    assert errors(of("network"), "layers: [{_target_: mine.Net, classes: 3}]") == set()
    assert errors(of("network"), "layers: [{_target_: mine.Nett, classes: 3}]") == {"layers.0._target_"}
    assert errors(of("network"), "_target_: mine.Net\nclasses: many") == {"classes"}
    assert errors(of("network"), "_target_: mine.Net\nclasses: 3\nwidht: 3") == {"widht"}
    assert errors(of("network"), "_target_: broken.Net\nclasses: 3") == set()
    assert errors(of("experiment"), "defaults: [override /network: mine]\ndata: {radius: 4}") == set()
    assert errors(of("experiment"), "data: {radios: 4}") == {"data.radios"}
    net = json.loads(Path(".lamella/schema/network.json").read_text())["$defs"]["mine.Net"]
    assert net["description"] == "Doubles what comes in."
    for name in ("build", "mode", "annotated"):
        assert errors(of("network"), f"_target_: mine.{name}\nwidth: 3") == set(), name
        assert errors(of("network"), f"_target_: mine.{name}\nwidth: 3\nhow: slow") == (
            set() if name == "build" else {"how"}
        ), name
    assert errors(of("network"), "_target_: mine.samples\ncount: 3") == {"_target_"}
    assert errors(of("data"), "source: {_target_: mine.samples, count: 3}") == set()


@pytest.mark.slow(seconds=10)
@pytest.mark.parametrize("name", ["gan", "own_dataset"])
def test_the_configs_of_examples_validate(
    lamella: Lamella, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(EXAMPLES / name)
    assert lamella("schema", str(tmp_path)).status == 0
    of = validators(tmp_path)
    for path in Path("conf").glob("*/*.yaml"):
        assert errors(of(path.parent.name), path.read_text()) == set(), path


SETTINGS = Path(".vscode/settings.json")


def test_vscode_gets_the_schemas(schemas: Path) -> None:
    settings = json.loads((schemas.parent / SETTINGS).read_text())
    assert set(settings["yaml.schemas"].values()) == {
        *(f"conf/{name}/*.yaml" for name in (*GROUPS, "experiment")),
        "conf/config.yaml",
    }
    assert all((schemas.parent / path).is_file() for path in settings["yaml.schemas"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "// mine",
        "// mine\r\n{\r\n}\r\n",
        '{"editor.tabSize": 2}',
        '{\n  "url": "http://a//b", // kept, /* too\n  "list": [1, 2,],\n}\n',
        '{\n  /* "yaml.schemas": {} */\n  "yaml.schemas": {\n    "https://a.org/x.json": "*.x", // mine\n  },\n}\n',
        '{"yaml.schemas": {"./.lamella/schema/network.json": ["nets/*.yaml"]}, "a": {"yaml.schemas": 3}}',
    ],
)
def test_settings_keep_what_is_in_them(text: str) -> None:
    ours = {"./.lamella/schema/network.json": "conf/network/*.yaml", "./.lamella/schema/loss.json": "conf/loss/*.yaml"}
    written = with_schemas(text, ours)
    rest = iter(written)
    assert all(letter in rest for letter in text), written  # nothing is taken away, and the order stays
    plain = re.sub(r",(?=\s*[}\]])", "", re.sub(r"(?m)(?<!:)//[^\"\n]*$|/\*[^\n]*\*/", "", written))
    schemas = json.loads(plain)["yaml.schemas"]
    own = {"./.lamella/schema/network.json": ["nets/*.yaml"]} if "nets" in text else {}
    assert schemas == {**({"https://a.org/x.json": "*.x"} if "a.org" in text else {}), **ours, **own}
    assert with_schemas(written, ours) == written


def test_the_command_given_twice_changes_nothing(lamella: Lamella) -> None:
    SETTINGS.parent.mkdir()
    SETTINGS.write_bytes(b'{\r\n  "editor.tabSize": 2, // mine\r\n}\r\n')
    assert lamella("schema", "--vscode").status == 0
    before = contents(Path())
    assert SETTINGS.read_bytes().startswith(b'{\r\n  "editor.tabSize": 2,\n  "yaml.schemas": {')
    assert SETTINGS.read_bytes().endswith(b" // mine\r\n}\r\n")
    assert lamella("schema", "--vscode").status == 0
    assert contents(Path()) == before


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{\n  "a": 1\n  "b": 2\n}\n', "line 3: this is not JSON"),
        ('{\n  // one\n  "a": one\n}\n', "line 3: this is not JSON"),
        ("[]\n", "line 1: the file is no object"),
        ('{\n  "a": 1,\n  "yaml.schemas": []\n}\n', "line 3: yaml.schemas is no object"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(lamella: Lamella, text: str, line: str) -> None:
    SETTINGS.parent.mkdir()
    SETTINGS.write_text(text)
    lamella("schema", "--vscode").check_refusal(f".vscode/settings.json, {line}")
    assert SETTINGS.read_text() == text
    assert not Path(".lamella").exists()


def test_settings_in_another_encoding_are_refused(lamella: Lamella) -> None:
    SETTINGS.parent.mkdir()
    SETTINGS.write_bytes('{"a": "é"}'.encode("latin-1"))
    lamella("schema", "--vscode").check_refusal(".vscode/settings.json: it cannot be read")


def test_a_file_in_the_way_is_refused(lamella: Lamella) -> None:
    Path("schemas").write_text("mine")
    lamella("schema", "schemas").check_refusal("schemas: it cannot be written")
    assert Path("schemas").read_text() == "mine"


@pytest.fixture
def editor(schemas: Path) -> Iterator[LanguageServer]:
    """yaml-language-server, as VS Code starts it in a project whose settings name the schemas."""
    settings: Mapping[str, Any] = json.loads((schemas.parent / SETTINGS).read_text())
    server = LanguageServer(schemas.parent, settings)
    yield server
    server.close()


@pytest.mark.slow(seconds=6)
@pytest.mark.skipif(not PROGRAM, reason="yaml-language-server is not installed: npm install -g yaml-language-server")
def test_an_editor_completes_explains_and_checks(editor: LanguageServer) -> None:
    network = (SHIPPED / "network" / "cnn.yaml").read_text()
    assert editor.diagnostics("conf/network/cnn.yaml", network) == []

    line = next(number for number, text in enumerate(network.splitlines()) if "Conv2d" in text)
    column = network.splitlines()[line].index("Conv2d")
    assert "Applies a 2D convolution" in editor.hover("conf/network/cnn.yaml", line, column + 1)

    editor.diagnostics("conf/network/new.yaml", "layers:\n  - Conv2d:\n      \n")
    proposed = editor.completions("conf/network/new.yaml", 2, 6)
    assert {"in_channels", "out_channels", "kernel_size", "stride", "padding", "padding_mode"} <= set(proposed)
    assert "out_features" not in proposed

    typo = network.replace("Conv2d", "Conv2D", 1)
    assert editor.diagnostics("conf/network/typo.yaml", typo) == [(line, column, "Property Conv2D is not allowed.")]

    editor.diagnostics("conf/experiment/mine.yaml", "defaults:\n  - override /network: \n")
    assert {"cnn", "mlp", "resnet18"} <= set(editor.completions("conf/experiment/mine.yaml", 1, 23))
    [(line, column, _)] = editor.diagnostics("conf/experiment/typo.yaml", "optimizer:\n  lr: 0.1\n  momentun: 0.9\n")
    assert (line, column) == (2, 12)
