"""The options of a command, as the files of `conf/` in effect give them: defaults and comments.

A default gives the type. A comment widens it: it names other values, `null`, `number`, `list`.
It begins with `file`, `checkpoint` or `folder` where that has to exist, and with `with KEY` or
`with KEY=VALUE` where the option has no effect without another of its group.
"""

import glob
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

from camreid.cli.errors import leaves, override
from camreid.errors import InputError
from camreid.files import CONF

_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}
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
            if name.startswith(("hydra", f"{prefix}defaults")):
                continue
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
    for name in map(str, [given] if isinstance(given, str) else given):
        is_pattern = glob.has_magic(name) and not Path(name).exists()
        found = sorted(glob.glob(name)) if is_pattern else [name]
        files += found
        if not found:
            raise InputError(
                f"no file matches {option}='{name}'; type {option}=[A.ckpt,B.ckpt] or a pattern."
            )
    return files


def check_values(given: Mapping[str, Any], known: Options, typed: Collection[str]) -> None:
    """Refuse a value of another kind, a missing file, and a `typed` option without effect."""
    for name in sorted(known, key=lambda name: name not in typed):  # what is typed first
        default, comment = known[name]
        value = given.get(name, default)
        about = f" ({comment})" if comment else ""
        if value == "???" or (default == "???" and not value):
            raise InputError(f"{name}= is missing. Type {name}={about}.")
        text, example = override(name, value), override(name, default)
        if text != example and not _takes(default, comment, value):
            expected = _KINDS.get(type(default), "another value")
            raise InputError(f"{text}: expected {expected}, such as {example}{about}.")
        kind = "".join(re.findall(r"^(file|checkpoint|folder)s?\b(?!/)", comment))
        for path in map(Path, matching(name, value) if kind and value else ()):
            is_file = path.is_file() or (path / "experts.json").is_file()
            if not (path.expanduser().is_dir() if kind == "folder" else is_file):
                near = ", ".join(sorted(file.name for file in path.parent.glob("*.ckpt"))[:5])
                near = f" Beside it: {near}." if near else ""
                raise InputError(f"no {kind} at {path}: {name}={path}{about}.{near}")
        needs = re.match(r"with (\w+)=?(\w*)(?:$|[:;])", comment) if name in typed else None
        other = f"{name.rpartition('.')[0]}.{needs[1]}" if needs else ""
        present = given.get(other)
        if needs and not (str(present).startswith(needs[2]) if needs[2] else present):
            raise InputError(
                f"{text} has no effect with {override(other, present)}. "
                f"Type {other}={needs[2] or 'VALUE'} with it, or leave it out."
            )


def _takes(default: Any, comment: str, value: Any) -> bool:
    words = re.findall(r"[\w-]+", comment)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == "" or default is None or override("", value)[1:] in words:
        return bool(value != "")
    if isinstance(value, list) and "list" in words:
        return True
    if isinstance(default, float) or "number" in words:
        return number
    if isinstance(default, str):
        return default not in words
    if isinstance(default, list) and isinstance(value, str):
        return not default or isinstance(default[0], str)
    return type(value) is type(default) or (isinstance(default, dict) and value is None)
