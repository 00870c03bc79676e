"""The options of a command, as the files of `conf/` in effect give them: defaults and comments.

A default gives the type. A comment widens it by `number`, `list`, and values that stand alone
between commas, semicolons, colons and `or`: `null, or hard: the nearest`. It begins with `file`,
`checkpoint` or `folder` where that has to exist, with `with KEY` or `with KEY=VALUE` where the
option has no effect without another of its group, and with `set` where it is not typed. Numbers are
finite and not negative, a share at most 1, unless `N or more`, `up to N` or a named -1 changes it.
"""

import glob
import json
import math
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from camreid.cli.errors import hint, leaves, override
from camreid.errors import InputError
from camreid.files import CONF

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_EXCLUDE = {"resume": ("init",), "split.manifest": ("split.",), "features": ("checkpoint", "split")}
Options = dict[str, tuple[Any, str]]  # default and comment by dotted name


def choices(group: str) -> str:
    """The files of a group, except bases such as `model/_training`."""
    return ", ".join(sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml")))


def known_options(command: str, typed: Sequence[str]) -> Options:
    """The options of a command and of the groups that are typed, where Hydra is initialised."""
    loader, known = GlobalHydra.instance().config_loader(), Options()
    folders = [Path(source.path.removeprefix("file://")) for source in loader.get_sources()]
    for part in loader.compute_defaults_list(command, list(typed), RunMode.RUN).defaults:
        files = (folder / f"{part.config_path}.yaml" for folder in folders)
        text = next((file.read_text("utf-8") for file in files if file.is_file()), "{}")
        prefix = f"{part.package}." if part.package else ""
        comments = dict(_comments(yaml.compose(text), text.splitlines(), prefix))
        for name, default in leaves(yaml.safe_load(text), prefix):
            if not name.startswith(("hydra", f"{prefix}defaults")):
                known[name] = default, comments.get(name) or known.get(name, (None, ""))[1]
    return known


def _comments(node: Any, lines: Sequence[str], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        yield prefix + key.value, lines[key.start_mark.line].partition(" # ")[2]
        yield from _comments(value, lines, f"{prefix}{key.value}.")


def show_options(command: str) -> None:
    """Print the options of the group after `--options`, or all, with defaults and comments."""
    args, typed = get_args_parser().parse_known_args([a for a in sys.argv[1:] if a != "--options"])
    typed += args.overrides
    group = next((text for text in typed if "=" not in text), "")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader: Any = GlobalHydra.instance().config_loader()
        if args.config_dir:
            folder = f"file://{Path(args.config_dir).absolute()}"
            loader.get_search_path().append("command-line", folder)
            loader.repository.initialize_sources(loader.get_search_path())
        known = known_options(command, [text for text in typed if "=" in text])
    for name in [name for name in known if name.startswith(group)]:
        default, comment = known[name]
        line = f"{name}:" if isinstance(default, dict) else override(name, default)
        print(f"{line:<44} # {comment}" if comment else line)
    groups = ", ".join(sorted({name.partition(".")[0] for name in known}))
    named = choices(group) if group else ""
    print(f"Choices of {group}=: {named}." if named else f"Groups: {groups}.")


def matching(option: str, given: Any) -> list[str]:
    """The files that a path or pattern, or a list of them, names; a path need not exist."""
    files: list[str] = []
    for name in map(str, [given] if isinstance(given, str | int) else given):
        is_pattern = glob.has_magic(name) and not os.path.exists(name)
        if not (found := sorted(glob.glob(name)) if is_pattern else [name]):
            raise InputError(f"no file matches {option}='{name}'; type files or another pattern.")
        files += found
    return files


def check_options(
    command: str, config: DictConfig, task: Sequence[str], needs_split: bool = True
) -> None:
    """Refuse names, values and combinations that cannot work."""
    given: dict[str, Any] = dict(leaves(OmegaConf.to_container(config)))
    typed = {text.partition("=")[0].lstrip("+") for text in task}
    known = relevant(given, known_options(command, task), typed, needs_split)
    if any(map(given.get, ("init", "resume", "checkpoint"))):  # the model is that of the file
        typed = {name for name in typed if not name.startswith("model.")}
    check_values(given, known, typed)
    for name in known:
        if type(given.get(name)) is int and _is_name(*known[name]):
            OmegaConf.update(config, name, str(given[name]))
    for part in given.get("data.also") or ():
        files = known_options("train", [f"data='{part.get('data')}'"]).items()
        known = {n.replace("data", "data.also", 1): option for n, option in files if "data." in n}
        own = {k: v for k, v in leaves(part, "data.also.") if k != "data.also.data"}
        check_values(own, relevant(own, known, own), own)


def relevant(
    given: Mapping[str, Any], known: Options, typed: Collection[str], needs_split: bool = True
) -> Options:
    """The known options that have an effect; refuse unknown names and options that conflict."""
    own = ("split", "model.network._target_", *known)  # a class to trust in a checkpoint
    every = {n[: m.start()]: 0 for n in own for m in re.finditer(r"\.|$", n)}
    for name in sorted(given, key=lambda name: name not in typed):  # what is typed first
        if not (name in every or _is_open(name, given, known)):
            raise InputError(f"there is no option {name}. {hint(name, every)}")
    for option, excluded in _EXCLUDE.items():
        for name in sorted({*typed} - {option, "split.outside_root"}) if given.get(option) else ():
            if name.startswith(excluded) and given.get(name) is not None:
                raise InputError(f"{option} and {name} exclude each other. Type one of them.")
    if given.get("features"):
        return {n: known[n] for n in known if n.startswith(("features", "eval", "run_dir", "seed"))}
    needless = {"split"} if "split._target_" in given or not needs_split else set()
    needless |= {"data.root"} if given.get("split.manifest") or "labels" in given else set()
    return {name: known[name] for name in known if name not in needless}


def _is_open(name: str, given: Mapping[str, Any], known: Options) -> bool:
    """Whether an option goes to a class that is not of this package."""
    parents = [name[: m.start()] for m in re.finditer(r"\.", name)][::-1]
    parents = [name] * (parents in (["callbacks"], ["logger"])) + parents
    target = next((f"{p}._target_" for p in parents if given.get(f"{p}._target_")), "")
    default, comment = known.get(target, ("", ""))
    if not target:  # a part without its class is refused where it is made
        return any(known.get(parent, ("",))[0] in (None, "???") for parent in parents)
    takes = re.findall(r"\w+", comment.partition("also ")[2])
    also = name.rpartition(".")[2] in takes if takes else not default.startswith("camreid.")
    return given[target] != default or also


def check_values(given: Mapping[str, Any], known: Options, typed: Collection[str]) -> None:
    """Refuse a value of another kind, a missing file, and a `typed` option without effect."""
    for name in sorted(given, key=lambda n: (isinstance(given[n], Mapping), n not in typed)):
        if not all(abs(number) < math.inf for number in _numbers(given[name])):
            raise InputError(f"{override(name, given[name])}: expected finite numbers.")
        if name in typed and re.search(r"[\0-\x1f\x7f]", str(given[name])):
            raise InputError(f"{override(name, given[name])}: expected no control characters.")
    for name in sorted(known, key=lambda name: (name not in typed, name != "split")):
        default, comment = known[name]
        value = given.get(name, default)
        text = override(name, value)
        if name in typed and comment.startswith("set "):
            raise InputError(f"{name}= is {comment}. Leave it out.")
        if value == "???" or (default == "???" and not value):
            raise InputError(f"{name}= is missing: expected {comment}.")
        if repr(value) != repr(default):
            _check_value(name, value, default, comment)
        kind = "".join(re.findall(r"^(file|checkpoint|folder)s?\b(?!/)", comment))
        for path in map(Path, matching(name, value) if kind and value is not None else ()):
            files = os.path.isfile(path) or os.path.isfile(path / "experts.json")
            if not (os.path.isdir(path.expanduser()) if kind == "folder" else files):
                names = sorted(glob.glob("*.ckpt", root_dir=path.parent))
                near = f" Beside it: {', '.join(names[:5])}." if names else ""
                raise InputError(f"no {kind} at {path}: {name}={path} ({comment}).{near}")
        needs = re.match(r"with (\w+)=?(\w*)(?:$|[:;])", comment) if name in typed else None
        other = f"{name.rpartition('.')[0]}.{needs[1]}" if needs else ""
        present = given.get(other)
        if needs and not (str(present).startswith(needs[2]) if needs[2] else present):
            found, wanted = f"{text} has no effect with {override(other, present)}", needs[2]
            raise InputError(f"{found}. Type {other}={wanted or 'VALUE'} with it, or leave it out.")


def _numbers(value: Any) -> Iterator[float]:
    inner = value.values() if isinstance(value, Mapping) else value
    for part in inner if isinstance(value, list | Mapping) else ():
        yield from _numbers(part)
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _check_value(name: str, value: Any, default: Any, comment: str) -> None:
    text, about = override(name, value), f" ({comment})" if comment else ""
    example = f", such as {override(name, default)}" if default not in (None, "???") else ""
    words = set(re.findall(r"[\w-]+", comment))
    may_be_null = re.match(r"(callbacks|logger)\.\w+$", name)
    if repr(value) in map(repr, _named(comment)) or (value is None and may_be_null):
        return
    if not _takes(default, comment, words, value):
        expected = _KINDS.get(type(default), "another value")
        raise InputError(f"{text}: expected {expected}{example}{about}.")
    least, most = re.search(r"([\d.]+) or more", comment), re.search(r"up to ([\d.]*\d)", comment)
    share = {"share", "probability"} & words and "number" not in words
    top = 1 if share else 2**32 - 1 if name.endswith("seed") else 2**31 - 1
    low, high = json.loads(least[1] if least else "0"), json.loads(most[1]) if most else top
    numbers = () if isinstance(value, dict) else _numbers(value)  # parts have options of their own
    if not all(low <= number <= high for number in numbers):
        raise InputError(f"{text}: expected {low}..{high}{example}{about}.")


def _named(comment: str) -> list[Any]:
    """The values that a comment names: single words between `,`, `;`, `:` and `or`."""
    bare = re.sub(r"\(.*?\)", "", re.sub(r"[\d.]+ or more|up to [\d.]*\d", "<>", comment))
    parts = (part.strip() for part in re.split(r"[,;:](?= |$)|\bor\b", bare))
    words = [part for part in parts if re.fullmatch(r"-?\w[\w/-]*", part)]
    return list(yaml.safe_load(f"[{', '.join(words)}]"))


def _is_name(default: Any, comment: str) -> bool:
    words = re.search(r"\b(file|folder|checkpoint|name|path|expression)s?\b", comment)
    kinds = {*map(type, default)} if isinstance(default, list) else {type(default)}
    return bool(words) and "{" not in comment and kinds <= {str, type(None)}


def _takes(default: Any, comment: str, words: set[str], value: Any) -> bool:
    """Whether a value, or each part of a list, is of a kind that the option takes."""
    parts = default if isinstance(default, list) else [default]
    kinds: set[type] = {*map(type, parts)}
    if default in ([], None, "???"):  # the comment alone gives the kind
        kinds = set() if comment else {type(value)}
    kinds |= {str, int} if _is_name(default, comment) else set()  # a name such as 2026
    kinds |= {int, float} if float in kinds or {"number", "numbers"} & words else set()
    kinds = kinds - {float} if "whole" in words else kinds
    kinds |= {dict} if "{" in comment else set()
    named = [repr(other) for other in _named(comment) if other is not None]
    if str in kinds and (parts and named if isinstance(default, list) else repr(default) in named):
        kinds -= {str}
    if isinstance(value, list):
        size = len(default) if default and kinds == {int} and default is parts else len(value)
        may_be = isinstance(default, list) or (value and ("list" in words or "[" in comment))
        if not may_be or size != len(value):
            return False
    elif isinstance(default, list) or comment.startswith("list"):
        kinds = {str} if _is_name(default, comment) else set()
    items = value if isinstance(value, list) else [value]
    return all(repr(v) in named or (type(v) in kinds and v != "") for v in items)
