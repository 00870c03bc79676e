"""A wheel, installed elsewhere, brings its configs and runs from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from camreid.data import SyntheticMarket

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the sdist, as `python -m build` does."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return next(out.glob("*.whl"))


def test_holds_every_config(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"camreid/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    assert "camreid/py.typed" in names
    package = (p for p in (ROOT / "src").rglob("*") if p.suffix in (".py", ".j2", ".css"))
    assert {path.relative_to(ROOT / "src").as_posix() for path in package} <= names


def test_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    market = SyntheticMarket(24, 8, distractors=6, junk=4).render(tmp_path)
    command = [
        sys.executable, "-m", "camreid.cli.train", "+split=original", f"data.root={market}",
        "model=small", "trainer=cpu", "trainer.max_epochs=1", "data.identities=4", "run_dir=run",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(site)}
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert "site/camreid/conf" in (tmp_path / "run" / ".hydra" / "hydra.yaml").read_text()
