"""Wrong requests: exit 2 before anything is trained, one short block that names the key, the value and the way out."""

import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import Lamella
from hydra.errors import MissingConfigException
from yaml import MarkedYAMLError

from lamella.config.diagnostics import explained_error
from lamella.config.files import SHIPPED

OWN = {
    "network/broken": "name: X\nlayers:\n  - Linear: [1\n  - ReLU\n",
    "network/tab": "name: X\nlayers:\n\t- ReLU\n",
    "network/list": "- ReLU\n",
    "network/unknown": "layers:\n  - Flatten\n  - Liner: 5\n",
    "network/rank": "layers:\n  stem:\n    - Flatten\n    - Conv2d: [5, 3]\n",
    "network/wide": "layers:\n  - Conv2d: [5, 3]\n  - Linear: 10\n",
    "network/argument": "layers:\n  - Linear: {out_feature: 10}\n",
    "network/foreign": "_target_: os.system\ncommand: touch hacked\n",
    "network/hidden": (
        "_target_: torch.nn.Sequential\n_args_:\n  - _target_: builtins.open\n    file: hacked\n    mode: w\n"
    ),
    "network/late": (
        "layers:\n  - Flatten\n  - {_target_: torch.nn.Linear, in_features: 784, out_features: 10,\n"
        "     device: '\\${oc.create:{_target_: shutil.copy, _args_: [conf, hacked]}}'}\n"
    ),
    "network/arguments": "layers:\n  - Flatten\n  - {_target_: torch.nn.Linear, _args_: 784}\n",
    "network/builtin": "_target_: torch.nn.modules.module.torch._C.PyTorchFileReader\n",
    "experiment/circle": "# @package _global_\nname: ${monitor}\nmonitor: ${name}\n",
    "network/absent": "_target_: torch.nn.Liner\n",
    "network/escape": "_target_: torch.nn.modules.module.warnings.warn\nmessage: x\n",
    "experiment/list_over_mapping": (
        "# @package _global_\ndefaults:\n  - override /network: neural_network\n  - _self_\n"
        "network:\n  layers: [ReLU]\n"
    ),
    "experiment/no_group": "# @package _global_\ndefaults:\n  - override /netwrk: mlp\n  - _self_\n",
    "network/starred": 'layers: [Flatten, {Linear: 10}]\nfreeze: {"0.*": ???}\n',
    "network/brackets": "width: 8\nlayers:\n  - Conv2d: [${network.width}, 3]\n",
    "network/short": "width: 8\nlayers:\n  - Flatten\n  - Linear: ${width}\n",
    "experiment/no_package": "optimizer:\n  lr: 1\n",
    "experiment/argument": "# @package _global_\noptimizer:\n  lrr: 1\n",
    "experiment/unread": "# @package _global_\nnetwork:\n  dept: 1\n",
    "experiment/root": "# @package _global_\nsed: 1\n",
    "experiment/mapping": "# @package _global_\ndefaults:\n  network: mlp\n",
    "experiment/no_slash": "# @package _global_\ndefaults:\n  - override network: mlp\n",
    "experiment/no_header": "defaults:\n  - override /network: mlp\noptimizer:\n  lr: 1\n",
    "experiment/group_as_value": "# @package _global_\nnetwork: mlp\n",
    "experiment/misspelt": "# @package _global_\noptimizer:\n  lrr: ${data.batch_size}\n",
    "network/epsilon": "layers:\n  - Flatten\n  - Linear: 10\n  - BatchNorm1d: 10\n",
    "network/mixed": "layers:\n  - Flatten\n  body:\n    - Linear: 10\n",
    "network/misread": "layers:\n  - Flatten\n  - Linear: ${network.widht}\n",
    "network/comma": "layers:\n  - Conv2d(32, 3)\n",
    "network/space": "layers:\n  - Flatten\n  - Linear 10\n",
    "network/empty": "# later\n",
    "network/shrinking": "layers:\n  - Residual: [{Conv2d: [8, 3]}]\n",
    "experiment/inside": "# @package _global_\ndefaults:\n  - network: cnn\n",
    "network/seven": "layers: [Flatten, {Linear: 7}]\n",
    "network/classnum": "layers:\n  - Flatten\n  - Linear: ${data.classnum}\n",
    "network/dotted": "layers:\n  - nn.Flatten\n  - Linear: 10\n",
    "network/called": "layers:\n  - Flatten\n  - Linear(10)\n",
    "network/bare_key": "layers:\n  - Flatten\n  - Linear: data.num_classes\n",
    "network/function": "_target_: torchvision.io.read_image\npath: x.png\n",
    "experiment/mapping_over_list": "# @package _global_\noptimizer:\n  betas: {first: 0.9}\n",
    "experiment/list_over_source": "# @package _global_\ndata:\n  source: [digits]\n",
    "data/listed": "defaults: [digits, _self_]\nsource: [x]\n",
    "experiment/listed": "# @package _global_\ndata:\n  augment: [flip]\n",
    "experiment/mapped": "# @package _global_\ndata:\n  augment: {mixup: 0.2, erase: 4}\n",
    "experiment/resolver": "# @package _global_\nname: ${nope:3}\n",
    "experiment/itself": "# @package _global_\nname: ${oc.select:name}\n",
    "network/special": "layers: [Flatten, \x00]\n",
    "network/tag": "layers: !!python/name:os.system\n",
    "experiment/interpolation": "# @package _global_\noptimizer:\n  lr: ${foo.bar}\n",
}

CASES = {
    "+trainer.fast_dev_run=true": ["trainer.fast_dev_run leaves no metrics", "use trainer=debug"],
    # what is given: what the message says, in this order
    "network=cnnn": ["network=cnnn: there is no such option; did you mean cnn?"],
    "netwrk=cnn": ["netwrk: there is no such key; did you mean network?"],
    "optimizer.lrr=1": ["optimizer.lrr: there is no such key; did you mean lr?", "+optimizer.lrr=…"],
    "+optimizer.lrr=1": [
        "optimizer.lrr: Adam has no such argument; did you mean lr?",
        "the command line: +optimizer.lrr=1",
    ],
    "trainer.max_epoch=2": ["trainer.max_epoch: there is no such key; did you mean max_epochs?"],
    "+trainer.max_epoch=2": ["trainer.max_epoch: Trainer has no such argument; did you mean max_epochs"],
    "+foo=1": ["foo: there is no such key; known: data, device, loss", "the command line: +foo=1"],
    "+network.dept=3": ["network.dept: nothing in the network reads this key; did you mean depth?"],
    "experiment=argument": ["optimizer.lrr: Adam has no such argument", "from conf/experiment/argument.yaml"],
    "experiment=unread": ["network.dept: nothing in the network reads", "from conf/experiment/unread.yaml"],
    "experiment=root": ["sed: there is no such key; did you mean seed?", "from conf/experiment/root.yaml"],
    "experiment=no_group": [
        "conf/experiment/no_group.yaml: there is no group 'netwrk' to override; did you mean network?"
    ],
    "experiment=interpolation": ["optimizer.lr is ${foo.bar}, but there is no key foo.bar", "interpolation.yaml"],
    "network=neural_network network.layers=[Flatten]": [
        "network.layers is a mapping, and a list cannot replace it",
        "conf/network/NAME.yaml",
    ],
    "experiment=list_over_mapping": [
        "conf/experiment/list_over_mapping.yaml: network.layers is a mapping",
        "network=linear",
    ],
    "experiment=mapping_over_list": [
        "conf/experiment/mapping_over_list.yaml: optimizer.betas is a list, and a mapping cannot replace it",
        "write the whole list there",
    ],
    "experiment=list_over_source": [
        "conf/experiment/list_over_source.yaml: data.source is a mapping, and a list cannot replace it",
        "write a mapping there too",
    ],
    "network.layers={a:Flatten}": [
        "network.layers is a list, and a mapping cannot replace it;\n  write the whole list, as 'network.layers=[…]'\n",
        "from the command line: network.layers={a:Flatten}",
    ],
    "network=cnn data.source=[digits]": [
        "data.source is a mapping, and a list cannot replace it;\n  write a mapping too, or data.source=null",
        "from the command line: data.source=[digits]",
    ],
    "data=listed": ["conf/data/listed.yaml: data.source is a mapping, and a list cannot replace it"],
    "experiment=resolver": ["name: Unsupported interpolation type nope", "from conf/experiment/resolver.yaml"],
    "experiment=itself": ["an interpolation leads back to itself"],
    "network=special": ["conf/network/special.yaml: this is no YAML: special characters are not allowed"],
    "network=tag": ["conf/network/tag.yaml, line 1, column 9: this is no YAML: could not determine a constructor"],
    "~foo": ["Could not delete from config. 'foo' does not exist"],
    "hydra.run=3": ["hydra.run: Invalid type assigned: int is not a subclass of RunDir", "line: hydra.run=3"],
    "-m hydra.sweeper.n_trials=3 seed=1,2": [
        "hydra.sweeper.n_trials: there is no such key; known: params\n  a search takes hydra/sweeper=optuna\n"
    ],
    "-m hydra.launcher.n_jobs=3 seed=1,2": ["hydra.launcher.n_jobs: there is no such key; known: slots\n"],
    "-m sweep.max_failure=1 seed=1,2": ["sweep.max_failure: there is no such key; did you mean max_failures?\n"],
    "network.layers.9=ReLU": ["network.layers[9]: the list has 3 items, numbered from 0"],
    "network=broken": ["conf/network/broken.yaml, line 5, column 1: this is no YAML: expected ',' or ']'"],
    "network=tab": [
        "conf/network/tab.yaml, line 3, column 1: this is no YAML: found character '\\t'",
        "indent with ordinary spaces",
    ],
    # The aliases of a file with a star are looked at before it is composed, and the error names the file then too.
    "network=starred": ["network/starred.yaml, line 2, column 17: this is no YAML", 'a missing value is quoted: "???"'],
    "network=brackets": ["brackets.yaml, line 3, column 15: this is no YAML", 'an interpolation is quoted: "${…}"'],
    "network=short": ["network.layers[1].Linear is ${width}, but there is no key width; did you mean network.width?"],
    "experiment=no_package": [
        "experiment: the file has to start with the line `# @package _global_`",
    ],
    "network=list": ["conf/network/list.yaml holds a list, where keys are expected"],
    "network=null": ["network=null: a run needs every group; write network=OPTION"],
    "~optimizer": ["~optimizer: a run needs every group; write optimizer=OPTION"],
    "~name": ["name: this key is missing, and a run needs it", "the command line: ~name"],
    "name=${name}": ["name: Recursive interpolation detected", "the command line: name=${name}"],
    "optimizer.lr=${optimizer.lr}": ["optimizer.lr: Recursive interpolation detected"],
    "--config-dir=nowhere": ["Additional config directory", "nowhere' not found"],
    "--optimizer.lr=3": ["--optimizer.lr=3: an override has no dashes; write optimizer.lr=3"],
    "optimizer.lr=1e-3,1e-4": [
        "several values are a sweep, which takes `lamella train -m`; a list is optimizer.lr=[1e-3,1e-4]"
    ],
    "lr=3e-3": ["lr: there is no such key; did you mean optimizer.lr?"],
    "experiment=mapping": ["conf/experiment/mapping.yaml: `defaults` takes a list; write a dash before each"],
    "experiment=no_slash": ["conf/experiment/no_slash.yaml: there is no group", "write `- override /network: …`"],
    "experiment=no_header": ["conf/experiment/no_header.yaml: there is no group", "as the first line of the file"],
    "experiment=group_as_value": ["network is 'mlp'; an option is chosen with", "- override /network: OPTION"],
    "experiment=misspelt": ["optimizer.lrr: Adam has no such argument", "from conf/experiment/misspelt.yaml"],
    "network=epsilon": ["network.layers.2: BatchNorm1d has its num_features=10 inferred, and its first value is eps"],
    "network=mixed": ["conf/network/mixed.yaml, line 3", "lines with a dash (a list) and lines without (a mapping)"],
    "network=misread": [
        "Linear is ${network.widht}, but there is no key network.widht; known: freeze, layers, weights\n"
    ],
    "network=comma": ["no layer is called 'Conv2d(32, 3)'; write `Conv2d: [32, 3]`"],
    "network=space": ["no layer is called 'Linear 10'; write `Linear: 10`"],
    "network=empty": ["network: it takes `layers`, a list or a mapping, or a `_target_`", "network=empty"],
    "network=shrinking": ["adds (8, 26, 26) to (1, 28, 28)", "with `padding` in its convolutions, or their `stride`"],
    "network.depth=two": ["Repeat.times is 'two'; it takes a whole number", "the command line: network.depth=two"],
    "network.dropout=2": ["Dropout: dropout probability has to be", "the command line: network.dropout=2"],
    "experiment=inside": ["its defaults choose network: cnn inside of experiment; write `- override /network: cnn`"],
    "data.val_size=1.5": ["data.val_size is 1.5; it takes a count, or a fraction below 1"],
    "–m seed=1,2": ["–m: this begins with a dash of the wrong kind; write -m"],
    "network=cnn network.weights=DEFAULT": [
        "network.weights is 'DEFAULT', a name of torchvision's weights, and this network is none of torchvision's",
        "the command line: network.weights=DEFAULT",
    ],
    "network=seven": ["it ends with Linear at network.layers.1; make that Linear: ${data.num_classes}\n"],
    "network=classnum": [
        "network.layers[1].Linear is ${data.classnum}, but there is no key data.classnum; known: augment, batch_size, ",
        "from conf/network/classnum.yaml",
    ],
    "network=dotted": ["network.layers.0: no layer is called 'nn.Flatten'; write `Flatten`"],
    "network=called": ["network.layers.1: no layer is called 'Linear(10)'; write `Linear: 10`"],
    "network=bare_key": ["out_features is 'data.num_classes'; Linear takes int", "written ${data.num_classes}"],
    "network=function": ["network._target_ is 'torchvision.io.read_image', a function; here it takes a class"],
    "network.width=0": ["network.layers.1.Repeat.layers.0: Linear has out_features=0; it takes 1 or more"],
    "device=gpu": ["device=gpu: there is no such option; known: auto, cpu, cuda, mps"],
    "optimizer.lr=nan": ["optimizer.lr is not a number (nan)", "the command line: optimizer.lr=nan"],
    "scheduler=cosine scheduler.T_max=0": ["scheduler: it cannot take a step: integer modulo by zero"],
    "scheduler=cosine trainer.max_epochs=null +trainer.max_time=00:00:01:00": [
        "scheduler.T_max is null, for the length of the run, which is not known; set it, "
        "trainer.max_epochs or trainer.max_steps",
    ],
    "scheduler=plateau scheduler.interval=step": ["scheduler.interval is 'step', but plateau follows val/loss"],
    "scheduler=plateau +trainer.limit_val_batches=0": ["scheduler: plateau follows val/loss, and the trainer's limits"],
    "+loss.reduction=sum": ["loss.reduction is 'sum'; a step takes the mean of its batch", "+loss.reduction=sum"],
    "data.augment=[{crop:28}]": ["data.augment.0: crop is 28; on images of 28×28 it would leave nothing of some"],
    "data.augment.crop=2": ["data.augment.crop: there is no such key; data.augment is a list: write 'data.augment=["],
    "experiment=listed data.augment.crop=2": ["'crop': a list has no such item, its items are numbered from 0; write"],
    "experiment=mapped": [
        "data.augment.erase: data.augment is a list; write data.augment: [{mixup: 0.2}, {erase: 4}]",
        "from conf/experiment/mapped.yaml",
    ],
    "data.augment=flip": ["data.augment is 'flip'; it takes a list, as data.augment=[{crop: 4},flip]"],
    "data.augment=[flp]": ["data.augment.0: there is no transform 'flp'; did you mean flip?", "data.augment=[flp]"],
    "data.augment=[{cutout:8}]": ["data.augment.0: there is no transform 'cutout'; did you mean erase?"],
    "data.augment=[ElasticTransform]": ["write {_target_: torchvision.transforms.v2.ElasticTransform}"],
    "data.augment=[{crop:2,flip:0.5}]": ["data.augment.0 is {'crop': 2, 'flip': 0.5}; it takes one transform, as flip"],
    "data.augment=[crop]": ["data.augment.0.crop: crop needs a value for 'padding'"],
    "data.augment=[{crop:[2,2]}]": ["data.augment.0.crop.reflect is 2; crop takes bool"],
    "data.augment=[trivialaugment,{trivialaugment:3}]": [
        "data.augment.1.trivialaugment: trivialaugment takes no argum"
    ],
    "data.augment=[{flip:{q:0.3}}]": ["data.augment.0.flip.q: flip has no such argument; known: alternate, p"],
    "data.augment=[{crop:[2,true,3]}]": ["data.augment.0.crop: crop takes at most padding, reflect, got [2, True, 3]"],
    "data.augment=[{flip:{alternate:true,p:0.3}}]": [
        "data.augment.0.flip: flip.alternate mirrors every second time, and"
    ],
    "data.augment=[{flip:2}]": ["data.augment.0.flip: flip is 2; it takes a probability above 0, up to 1"],
    "data.augment=[{rotate:200}]": ["rotate is 200; it takes an angle above 0, up to 180 degrees"],
    "data.augment=[{erase:0}]": ["erase is 0; it takes 1 pixel or more"],
    "data.augment=[{erase:28}]": ["erase is 28; on images of 28×28 it would leave nothing of some"],
    "data.augment=[color]": ["data.augment.0.color: color changes nothing; give it an amount"],
    "data.augment=[{color:{hue:0.6}}]": ["color.hue is 0.6; it takes 0 to 0.5"],
    "data.augment=[{color:{hue:0.2}}]": ["color.hue is 0.2; it takes images of 3 channels, and data.shape has 1"],
    "data.augment=[{randaugment:[0]}]": ["randaugment.num_ops is 0; it takes 1 or more"],
    "data.augment=[{randaugment:[2,31]}]": ["randaugment.magnitude is 31; it takes 0 to 30"],
    "data.augment=[{mixup:0}]": ["data.augment.0.mixup: mixup is 0; it takes a number above 0"],
    "data.augment=[mixup,flip]": [
        "data.augment.0: mixup mixes the images that the other transforms give; write it last"
    ],
    "data.augment=[mixup] loss=mse": ["loss: mixup gives an image the classes of two, which MSELoss does not take"],
    "data.augment=[mixup] loss.weight=[1,1,1,1,1,1,1,1,1,9]": ["loss.weight: mixup gives an image the classes of two"],
    "data.augment=[mixup] loss.ignore_index=3": [
        "loss: mixup gives an image the classes of two, and 3, which does not"
    ],
    "data.augment=[cutmix] data.batch_size=1": ["data.augment.0: cutmix has nothing to mix where data.batch_size is 1"],
    "data.augment=[cutmix] data=shapes network=unet": [
        "cutmix mixes the classes of images, and the target of an image"
    ],
    "data.augment=[mixup] data=breast_cancer": ["data.augment changes images, and these samples are none"],
    "data.augment=[{_target_:torchvision.transforms.v2.Resize,size:14}]": [
        "data.augment.0: Resize makes uint8 (1, 14, 14) of an image, uint8 (1, 28, 28); a transform keeps the shape",
    ],
    "data.augment=[{_target_:torchvision.transforms.v2.MixUp}]": [
        "MixUp takes batches with their classes; write {mixup"
    ],
    "data.augment=[{_target_:torchvision.transforms.v2.Normalize,mean:[0.5],std:[0.5]}]": [
        "Normalize fails for uint8 (1, 28, 28): "
    ],
    "data.augment=[{_target_:torchvision.transforms.v2.RandomInvert,p:1,per:all}]": [
        "per is 'all'; it takes sample or"
    ],
    "data.augment=[{_target_:torchvision.models.resnet18}]": [
        "data.augment.0._target_ is 'torchvision.models.resnet18'"
    ],
    "network=unknown": [
        "network.layers.1: no layer is called 'Liner'; did you mean Linear",
        "conf/network/unknown.yaml",
    ],
    "network=rank": ["network.layers.stem.1: Conv2d expects (channels, height, width), what comes in is (784,)"],
    "network=wide": [
        "network: it gives (5, 26, 10) for a sample, where 10 classes take (10,)",
        "it ends with Linear at network.layers.1, which takes (5, 26, 26)",
        "Flatten and Linear",
    ],
    "network=argument": ["network.layers.0.Linear.out_feature: Linear has no such argument; did you mean out_features"],
    "network=foreign": [
        "network._target_ is 'os.system'; a config may build from torch.nn, ",
        "[tool.lamella]\n  targets = [",
    ],
    "network=hidden": ["network._args_.0._target_ is 'builtins.open'; a config may build from torch.nn, "],
    "network=late": ["network.layers.1.device is '${oc.create:", "no interpolation", "conf/network/late.yaml"],
    "network=arguments": ["network.layers.1._args_ is 784; it takes a list"],
    "network=builtin": ["network._target_ is 'torch.nn.modules.module.torch._C.PyTorchFileReader', which leads out of"],
    "experiment=circle": ["Recursive interpolation detected", "conf/experiment/circle.yaml"],
    "hydra.job.chdir=true": ["hydra.job.chdir is true; run directories are made below the working directory"],
    "trainer.strategy=foo": ["trainer.strategy is 'foo'; ", "the command line: trainer.strategy=foo"],
    "trainer.chunk=0": [
        "trainer.chunk is 0; it takes auto, or a number of batches",
        "the command line: trainer.chunk=0",
    ],
    "trainer.chunk=all": ["trainer.chunk is 'all'; it takes auto, or a number of batches"],
    "trainer.accumulate_grad_batches=0": ["trainer.accumulate_grad_batches is 0; it takes more than 0"],
    "+trainer.val_check_interval=0": ["trainer.val_check_interval is 0; it takes more than 0"],
    "-m name=../evil seed=1,2": ["name is '../evil'; it names a directory in outputs/"],
    "hydra.mode=MULTIRUN optimizer.lr=1,-1": ["optimizer.lr: Invalid learning rate: -1"],
    "--multi optimizer.lr=1,-1": ["optimizer.lr: Invalid learning rate: -1"],
    "-m trainer.devices=1 +trainer.num_nodes=1,2": ["trainer.num_nodes: a job of a sweep has one machine"],
    "network=absent": ["network._target_ is 'torch.nn.Liner', which cannot be imported; did you mean Linear"],
    "network=escape": ["network._target_ is 'torch.nn.modules.module.warnings.warn', which leads out of"],
    "network=resnet18": [
        "network: ResNet cannot take (1, 28, 28)",
        "Conv2d has in_channels=3, what comes in is (1, 28, 28)",
    ],
    "network.width=wide": ["Linear.out_features is 'wide'; Linear takes int", "the command line: network.width=wide"],
    "network.name=3": ["network.name is 3; it is printed as a class name"],
    "optimizer.lr=0.1, 0.2": ["optimizer.lr=0.1,: there is no space between several values; write optimizer.lr=0.1,"],
    "optimizer.lr=???": ["optimizer.lr is ???: it must be set, as in optimizer.lr=…", "optimizer.lr=???"],
    "optimizer.lr=fast": ["optimizer.lr is 'fast'; Adam takes float", "the command line: optimizer.lr=fast"],
    "optimizer.lr=-1": ["optimizer.lr: Invalid learning rate: -1", "the command line: optimizer.lr=-1"],
    "experiment=mnist_cnn data=digits optimizer.lr=-1": ["Invalid learning rate: -1", "line: optimizer.lr=-1"],
    "optimizer.betas=[0.9,1.5]": ["Invalid beta parameter", "the command line: optimizer.betas=[0.9,1.5]"],
    "optimizer._target_=torch.nn.ReLU": ["optimizer._target_ is 'torch.nn.ReLU'; it takes a subclass of Optimizer"],
    "seed=1.7": ["seed is 1.7; it takes a whole number from 0 on", "the command line: seed=1.7"],
    "seed=-1": ["seed is -1"],
    "name=../x": ["name is '../x'; it names a directory in outputs/"],
    "monitor=val/acc": ["monitor is 'val/acc'; this loss and data give val/loss, val/accuracy"],
    "data.batch_size=ten": ["data.batch_size is 'ten'; Data takes int", "the command line: data.batch_size=ten"],
    "data.batch_size=5000 data.drop_last=true": ["data.batch_size is 5000, more than the 1294 training samples"],
    "data.num_classes=5 data.classes=null": ["data.num_classes is 5, but a training label is 9"],
    "data.shape=[3,28,28]": ["data.shape is [3, 28, 28], but the training samples are [1, 28, 28]"],
    "data=mnist data.root=nowhere data.download=false": [
        "data.root is 'nowhere': there is no intact MNIST in",
        "data.root=nowhere",
    ],
    "data.shape=[28,28]": ["data.shape is [28, 28], but the training samples are [1, 28, 28]"],
    "data.augment=[{crop:-1}]": ["data.augment.0.crop: crop is -1; it takes 1 pixel or more", "[{crop:-1}]"],
    "+data.augment.crop=-1": ["data.augment.crop is -1; it takes 0 or more", "the command line: +data.augment.crop=-1"],
    "+data.augment.crop=28": ["data.augment.crop is 28; on images of 28×28 it would leave nothing of some"],
    "data.in_memory=false data.num_workers=-1": ["data.num_workers is -1; it takes 0 or more"],
    "data.cache=disk": ["data.cache is 'disk'; it takes memmap, or null for none", "the command line: data.cache=disk"],
    "data.cache=memmap": ["data.cache keeps decoded image files, and these samples are none; leave it null"],
    "data.mean=[0.1,0.2]": ["data.mean is [0.1, 0.2]; data.shape has one channel"],
    "data=image_folder": ["data.root is ???: it must be set", "data/image_folder.yaml"],
    "data=image_folder data.root=nowhere": [
        "data.root is 'nowhere': there is no folder",
    ],
    "loss.label_smoothing=2": ["loss: label_smoothing must be between 0.0 and 1.0"],
    "loss.weight=[1,2]": ["loss.weight has 2 numbers, and there are 10 classes\n", "line: loss.weight=[1,2]"],
    "scheduler.interval=day": ["scheduler.interval is 'day'; it takes epoch or step"],
    "scheduler.warmup_steps=-1": ["scheduler.warmup_steps is -1; it takes a number of optimizer steps"],
    "scheduler=one_cycle scheduler.warmup_steps=5": ["scheduler.warmup_steps: one_cycle warms up by itself"],
    "device.threads=0": ["device.threads is 0; it takes 1 or more"],
    "device.graph=always": ["device.graph is 'always'; it takes auto or false"],
    "device.graph=true": ["device.graph is True; it takes auto or false"],
    "device.graph=null": ["device.graph is None; it takes auto or false"],
    "device.channels_last=maybe": ["device.channels_last is 'maybe'; it takes true, false or auto"],
    "device.channels_last=1": ["device.channels_last is 1; it takes true, false or auto"],
    "device.channels_last=true": ["device.channels_last is true, which has no effect on this network", "=false"],
    "device.compile=fast": [
        "device.compile is 'fast'; it takes true, false, or a mode of torch.compile: default, reduce-overhead, max-aut",
        "the command line: device.compile=fast",
    ],
    "device.compile=true device.precision=16-mixed": [
        "device.compile is true, but device.precision is 16-mixed, whose scaled loss compiled steps do not know"
    ],
    "device.compile=true device.channels_last=auto network=cnn": [
        "device.channels_last is auto, which measures steps that are not compiled, and device.compile is set"
    ],
    "device.compile=max-autotune device.deterministic=true": [
        "device.compile is 'max-autotune', which chooses kernels by their time, but device.deterministic is true"
    ],
    "device.accelerator=gpu": ["device.accelerator is 'gpu'; "],
    "device.precision=7": ["device.precision is 7; Trainer takes 64 or 32 or 16"],
    "trainer.max_epochs=0": ["trainer.max_epochs is 0; it takes 1 or more", "the command line: trainer.max_epochs=0"],
    "trainer.callbacks=[ReLU]": ["trainer.callbacks.0 is 'ReLU'; it takes a mapping with a `_target_`"],
    "trainer.callbacks=3": ["trainer.callbacks is 3; it takes a list"],
    "+trainer.gradient_clip_algorithm=foo": [
        "trainer.gradient_clip_algorithm: `gradient_clip_algorithm` foo is invalid"
    ],
    "trainer=fsdp device=cpu": ["trainer.strategy is 'fsdp', which needs CUDA; use trainer=ddp"],
    "trainer=ddp data.batch_size=65 device=cpu": ["data.batch_size is 65, which 2 devices cannot share equally"],
}


@pytest.mark.slow
@pytest.mark.parametrize("given", CASES)
def test_wrong_request(lamella: Lamella, given: str) -> None:
    for name, text in OWN.items():
        path = Path("conf") / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    result = lamella("train", *given.split(" "))
    assert result.status == 2
    block = result.err
    assert block.startswith("error: ")
    for part in CASES[given]:
        assert part in block, block
        block = block[block.index(part) + len(part) :]
    assert len(result.err.splitlines()) <= 10
    assert "Traceback" not in result.err
    assert not list(Path("outputs").rglob("run.json"))
    assert not Path("hacked").exists()
    assert not Path("../evil").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_absent_device_is_refused_before_anything_is_built(lamella: Lamella) -> None:
    result = lamella("train", "device=cuda", "network.layers=[Liner]")
    assert result.status == 2
    assert "device.accelerator is 'cuda', but this machine has none; use device=auto or device=cpu" in result.err


@pytest.mark.slow
def test_corrupt_image_is_named(lamella: Lamella, image_root: Path) -> None:
    broken = next((image_root / "train" / "one").iterdir())
    broken.write_bytes(broken.read_bytes()[:60])
    for in_memory in ("true", "false"):
        result = lamella("train", "data=image_folder", f"data.root={image_root}", f"data.in_memory={in_memory}")
        assert result.status == 2
        assert f"{broken} is no readable image" in result.err
    assert not Path("outputs").exists()


def test_outputs_that_cannot_be_written(lamella: Lamella) -> None:
    Path("outputs").write_text("a file where a directory should be")
    result = lamella("train")
    assert result.status == 2
    assert result.err.startswith("error: outputs/default: cannot write there (")


def test_a_yaml_error_without_a_place_is_explained() -> None:
    assert (
        str(explained_error(MarkedYAMLError(problem="it ends early"), [])) == "a config file is no YAML: it ends early"
    )


def test_an_unforeseen_error_gives_its_first_line() -> None:
    assert str(explained_error(OSError("the first line\nthe second one"), [])) == "the first line"
    assert str(explained_error(MissingConfigException("no config at all"), [])) == "no config at all"


def test_full_error_shows_the_traceback(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match=r"seed is 1\.7"):
        lamella("train", "seed=1.7")


def test_a_process_of_somebody_elses_launcher(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("LAMELLA_RUN", raising=False)
    result = lamella("train")
    assert result.status == 2
    assert result.err == "error: LOCAL_RANK is set: start `lamella train` alone, it starts the other processes itself\n"


def test_unknown_command_and_board_without_outputs(lamella: Lamella) -> None:
    assert lamella("trian").err == "error: there is no command 'trian'; did you mean train?\n"
    assert lamella("trian").status == 2
    result = lamella("board", "nowhere")
    assert result.status == 2
    assert result.err == "error: nowhere is not a directory; `lamella train` makes outputs/\n"


def test_windows_is_refused_before_anything_is_imported_that_it_lacks() -> None:
    program = (
        "import sys\n"
        "sys.platform, sys.modules['fcntl'], sys.argv = 'win32', None, ['lamella', 'train']\n"
        "from lamella.__main__ import main\n"
        "status = main()\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr == "error: Lamella needs a POSIX system (Linux or macOS); on Windows use WSL\n"
    assert done.returncode == 2


def test_a_file_that_is_not_utf8_is_named(lamella: Lamella) -> None:
    Path("conf/network").mkdir(parents=True)
    Path("conf/network/odd.yaml").write_bytes("layers: [Flatten]\n".encode("utf-16"))
    result = lamella("train", "network=odd")
    assert result.status == 2
    assert result.err.startswith("error: conf/network/odd.yaml: this is not UTF-8 (")


def test_a_primary_config_that_hides_lamellas_own_is_named(lamella: Lamella) -> None:
    Path("conf").mkdir()
    Path("conf/config.yaml").write_text("seed: 3\n")
    result = lamella("train")
    assert result.status == 2
    assert result.err.startswith(
        "error: conf/config.yaml takes the place of Lamella's own, and its defaults lack `data`;\n"
    )
    assert "put what differs into conf/experiment/NAME.yaml" in result.err
    assert not Path("outputs").exists()
    Path("conf/config.yaml").write_text((SHIPPED / "config.yaml").read_text().replace("seed: 0", "seed: 3"))
    assert "seed: 3\n" in lamella("train", "--cfg", "job").out


@pytest.mark.parametrize("text", ["hello\n", "defaults: [null]\n", "defaults: [3]\n", "defaults: 3\n", ""])
def test_a_primary_config_of_another_kind_is_refused(lamella: Lamella, text: str) -> None:
    Path("conf").mkdir()
    Path("conf/config.yaml").write_text(text)
    result = lamella("train")
    assert result.status == 2
    assert result.err.startswith(
        "error: conf/config.yaml takes the place of Lamella's own, and its defaults lack `data`"
    )


@pytest.mark.parametrize("value", ['"mine"', '["mine", 3]', '["mine/net.py"]'])
def test_targets_of_the_project_are_names_of_packages(lamella: Lamella, value: str) -> None:
    Path("pyproject.toml").write_text(f"[tool.lamella]\ntargets = {value}\n")
    result = lamella("train")
    assert result.status == 2
    assert "error: pyproject.toml: [tool.lamella] targets is " in result.err
    assert 'it takes names of packages, ["mine"]' in result.err


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("help", "train"), ["usage: lamella train", "--cfg job", "examples:\n  lamella train optimizer.lr=3e-3"]),
        (("train", "help"), ["usage: lamella train", "network: affine"]),
        (("help", "compare"), ["usage: lamella compare", "--plot FILE", "examples:\n  lamella compare outputs/"]),
        (("help", "explain-nan"), ["usage: lamella explain-nan", "examples:\n  lamella explain-nan outputs/"]),
        (("help", "find"), ["usage: lamella find", "--plot FILE", "examples:\n  lamella find lr network=cnn"]),
        (("board", "help"), ["usage: lamella board", "--port", "examples:\n  lamella board\n"]),
        (("help",), ["usage: lamella COMMAND", "lamella help COMMAND"]),
    ],
)
def test_help(lamella: Lamella, arguments: tuple[str, ...], shown: list[str]) -> None:
    result = lamella(*arguments)
    assert (result.status, result.err) == (0, "")
    for text in shown:
        assert text in result.out


@pytest.mark.slow(10)
@pytest.mark.parametrize("line", [["train", "optimizer.lr=abc"], ["train", "-m", "optimizer.lr=abc,1"], ["eval", "no"]])
def test_loading_is_said_on_a_terminal_until_something_else_is(tmp_path: Path, line: list[str]) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "lamella", *line], cwd=tmp_path, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    printed = b""
    with suppress(OSError):  # how a terminal ends whose programs have ended
        while part := os.read(master, 1000):
            printed += part
    os.close(master)
    assert process.wait(60) == 2
    notice, removal, rest = printed.decode().partition("\r\033[K")
    assert (notice, removal) == ("loading torch…", "\r\033[K")
    assert rest.startswith("error: ")
    assert "loading" not in rest
