"""README and docs run: their Python blocks, their commands, the files that they name."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from camreid.cli.report import parser
from tests.conftest import Ran

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of every camreid command, without comments and environment."""
    lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    found = [re.search(r"camreid-[a-z]+( .*|$)", line) for line in lines]
    return [shlex.split(match[0], comments=True) for match in found if match]


GENERATED = {"configuration.md", "contributing.md", "changelog.md"}  # by docs/hooks.py
WITH_COMMANDS = [page for page, text in PAGES.items() if commands(text)]
WITH_PYTHON = [page for page, text in PAGES.items() if blocks(text, "python")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*`log_every_n_steps`")
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks(PAGES[page], "python"):
        exec(compile(code, page, "exec"), names)


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_are_accepted(page: str, run: Callable[..., Ran]) -> None:
    for name, *options in commands(PAGES[page]):
        if name == "camreid-compare":  # compare and report do without Hydra
            assert len(parser("compare").parse_args(options).runs) > 1
        elif name == "camreid-data":
            assert parser("data").parse_intermixed_args(options).action
        elif name == "camreid-report":
            assert parser("report").parse_args(options).runs
        else:
            if "-m" in options:
                kept = [o for o in options if o != "-m" and not o.startswith("hydra")]
                options = [re.sub(r",.*|interval\(", "", o) for o in kept]  # of a sweep, its first
            options = [o for o in options if not o.startswith(("init=", "resume="))]  # are read
            options = [str(ROOT / o) if o.startswith("examples/") else o for o in options]
            ran = run(name, "--cfg", "job", *options)
            assert ran.code == 0, f"{name} {options}: {ran.err}"


def test_files_named_exist() -> None:
    for page, text in PAGES.items():
        for file in re.findall(r"(?:scripts/[a-z_/]+\.py|(?:examples/)?conf/[\w/]+\.yaml)", text):
            assert (ROOT / file).is_file(), f"{page}: {file}"
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            there = (ROOT / page).parent / link
            assert there.exists() or there.name in GENERATED, f"{page}: {link}"


def test_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150
