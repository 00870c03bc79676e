"""The README runs: its Python example, its commands, its files."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from camreid.cli import CONF, report
from camreid.cli.compare import parser
from tests.conftest import Ran

README = (Path(__file__).parents[1] / "README.md").read_text()
LINES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
COMMANDS = [
    re.search(r"camreid-(train|evaluate|import|export|matrix|compare) .*", line) for line in LINES
]


REPORTS = [line for line in LINES if line.startswith("camreid-report")]


@pytest.mark.slow
def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "torch.Size([2, 96])" in capsys.readouterr().out


@pytest.mark.parametrize("command", [c[0] for c in COMMANDS if c], ids=lambda c: c[:60])
def test_commands_compose(command: str, run: Callable[..., Ran]) -> None:
    name, *options = shlex.split(command, comments=True)
    if name == "camreid-compare":  # without Hydra
        assert len(parser().parse_args(options).runs) > 1
        return
    multirun = "-m" in options
    options = [o for o in options if o != "-m"]
    if multirun:
        options = [o.split(",")[0] for o in options]
    ran = run(name, *options, "--cfg", "job")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("command", REPORTS)
def test_reports_are_typed_so(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", shlex.split(command))
    typed = report.read_arguments()
    assert all(run.parts[0] == "runs" for run in typed.runs)
    assert typed.output in (None, Path("both.html"), Path("report.html"))


def test_the_choices_it_names_are_those_there_are() -> None:
    for group in ("logger", "trainer"):
        (named,) = re.findall(rf"`{group}=([a-z0-9|]+)`", README)
        there = {p.stem for p in Path(CONF, group).glob("*.yaml")}
        assert set(named.split("|")) == there


def test_the_files_it_names_are_there() -> None:
    root = Path(__file__).parents[1]
    for file in set(re.findall(r"(?:scripts/[a-z_/]+\.py|docs/[a-z]+\.png)", README)):
        assert (root / file).is_file()


def test_the_split_options_it_names_have_these_values() -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        for split in ("original", "resplit"):
            config = compose("train", [f"+split={split}", "run_dir=r"]).split
            (row,) = re.findall(rf"\| `\+split={split}` \|.*", README)
            for key, value in re.findall(
                r"`(\w+)=([\d.]+)`", row.rpartition("|")[0].rpartition("|")[2]
            ):
                assert key in config
                if key != "camera":
                    assert float(config[key]) == float(value)
