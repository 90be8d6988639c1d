"""Hints for what people type that is no override and no key: what to type instead."""

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from lamella.config.file_keys import keys_in_file
from lamella.config.files import GROUPS, SHIPPED, project_folder
from lamella.errors import nearest, nearest_keys

CHOSEN = (*GROUPS, "experiment")  # the folders of conf/ whose files are chosen with GROUP=OPTION
# Names of other frameworks and of earlier habits, with what they are called here.
FOREIGN = {
    "ckpt_path": "`lamella resume RUN` goes on with a run, and `lamella eval RUN` tests one",
    "checkpoint": "`lamella resume RUN` goes on with a run, and `lamella eval RUN` tests one",
    "resume": "write `lamella resume RUN`",
    "logger": "TensorBoard is always written; another logger is +trainer.logger=[{_target_: …}]",
    "callbacks": "write trainer.callbacks=[{_target_: …}]",
    "callback": "write trainer.callbacks=[{_target_: …}]",
    "model": "write network=OPTION or network.KEY=VALUE",
    "net": "write network=OPTION or network.KEY=VALUE",
    "arch": "write network=OPTION or network.KEY=VALUE",
    "dataset": "write data=OPTION or data.KEY=VALUE",
    "datamodule": "write data=OPTION or data.KEY=VALUE",
    "criterion": "write loss=OPTION",
    "learning_rate": "did you mean optimizer.lr?",
    "bs": "did you mean data.batch_size?",
    "workers": "did you mean data.num_workers?",
    "gpus": "write trainer.devices=NUMBER, and device=cuda",
    "gpu": "write device=cuda",
    "cpu": "write device=cpu",
    "epochs": "did you mean trainer.max_epochs?",
    "debug": "write trainer=debug",
    "output_dir": "a run is stored in outputs/NAME/; write name=NAME",
    "out": "a run is stored in outputs/NAME/; write name=NAME",
}


def options_of(group: str) -> list[str]:
    """Return the names of the options of a config group, those of the project and those that come with Lamella."""
    files = [path for folder in (project_folder(), SHIPPED) for path in (folder / group).glob("*.yaml")]
    # `default` is the base of a group's other options; only in the group trainer it is an option itself.
    return sorted({path.stem for path in files if path.stem != "default" or group == "trainer"})


def hint_for_word(word: str) -> str:
    """Return what to type instead of a word without an equals sign where an override is expected."""
    path, is_yaml = Path(word), word.endswith((".yaml", ".yml"))
    name = path.stem if is_yaml else word
    groups = [group for group in CHOSEN if name in options_of(group)]
    written = re.fullmatch(r"([\w.@/]+):\s*(.+)", word)
    if is_yaml and path.parent.name in CHOSEN:
        return f"a config file is chosen by its group and its name; write {path.parent.name}={name}"
    if groups:
        return f"an option is chosen with its group; write {' or '.join(f'{group}={name}' for group in groups)}"
    if word in CHOSEN:
        return f"write {word}=OPTION; {nearest('', options_of(word))}"
    if os.path.isfile(path / "run.json"):  # False for a word that is too long for a path
        return f"this is a run; `lamella resume {word}` goes on with it, and `lamella eval {word}` tests it"
    if written:
        return f"an override is KEY=VALUE; write {written[1]}={written[2]}"
    if word.lower() in FOREIGN:
        return FOREIGN[word.lower()]
    known = [f"{group}={option}" for group in CHOSEN for option in options_of(group)]
    ends = {text.partition("=")[2]: text for text in known}
    close = get_close_matches(word, ends, n=1, cutoff=0.7)
    keys = list(written_keys())
    if word in keys:
        return f"an override is KEY=VALUE, without spaces; write {word}=VALUE"
    key = next(iter(nearest_keys(word, keys)), None)
    likely = ends[close[0]] if close else key and f"{key}=…"
    return "an override is KEY=VALUE" + (f"; did you mean {likely}?" if likely else ", as in optimizer.lr=0.01")


def hint_for_option(name: str, value: str | None) -> str:
    """Return what to type instead of an option with dashes, such as `--lr 0.1`.

    value: what follows the option, None if nothing does.
    """
    key = name.lstrip("-").replace("-", "_")
    if key in FOREIGN:
        return FOREIGN[key]
    keys = [*CHOSEN, *written_keys()]
    found = key if key in keys else next(iter(nearest_keys(key, keys)), key if "." in key or value else None)
    if found is None:
        return "there is no such option; `lamella train --help` lists them, and an override is KEY=VALUE"
    return f"an override has no dashes; write {found}={value or 'VALUE'}"


def hint_for_key(key: str) -> str | None:
    """Return what to type instead of a key that other frameworks or earlier versions have, or None for any other."""
    if key.startswith("data.augment."):
        return "data.augment is a list: write 'data.augment=[{crop: 4},flip]'"
    return FOREIGN.get(key.rpartition(".")[2] if key.startswith("trainer.") else key.partition(".")[0])


def misplaced_option(group: str, option: str) -> str | None:
    """Return what is wrong with the file that was meant by `group=option`, or None if no such file is found.

    The file may end in `.yml`, or be in a folder whose name resembles that of the group.
    """
    conf = project_folder()
    name = option.removesuffix(".yaml").removesuffix(".yml")
    if name != option and name in options_of(group):
        return f"an option is written without the ending of its file; write {group}={name}"
    other = conf / group / f"{name}.yml"
    if other.is_file():
        return f"{other}: the name of a config file ends in .yaml; rename it"
    for folder in sorted(path for path in conf.glob("*") if path.is_dir()):
        found = [folder / f"{name}{ending}" for ending in (".yaml", ".yml")]
        if folder.name not in CHOSEN and get_close_matches(folder.name, [group]) and any(map(Path.is_file, found)):
            return f"the folder {folder} has another name than the group; rename it to {conf / group}"
    return None


def written_keys() -> Iterator[str]:
    """Yield every dotted key that a config file of a group, or the primary config, writes."""
    for folder in (project_folder(), SHIPPED):
        for group in GROUPS:
            for path in sorted((folder / group).glob("*.yaml")):
                yield from (
                    f"{group}.{key}" for key in keys_in_file(path) if not key.endswith(("_target_", "defaults"))
                )
        yield from (key for key in keys_in_file(folder / "config.yaml") if not key.startswith(("defaults", "hydra")))
