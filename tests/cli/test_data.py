"""camreid-data: check, show and split; and data.on_bad_image."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from camreid.data import Split
from tests.cli.conftest import metrics
from tests.conftest import TINY, Ran

Run = Callable[..., Ran]


@pytest.fixture
def copy(market: Path, tmp_path: Path) -> Path:
    """A copy of the rendered dataset, to be changed."""
    return Path(shutil.copytree(market, tmp_path / "copy"))


def test_check_is_clean_or_lists_all(run: Run, copy: Path) -> None:
    images = sorted((copy / "bounding_box_train").iterdir())
    lines = [f"{path},{n % 2},{n % 3}" for n, path in enumerate(images)]
    Path("all.csv").write_text("\n".join(["path,identity,camera", *lines]))
    ran = run("camreid-data", "check", "data=csv", "data.path=all.csv")
    assert ran.code == 0, ran.out + ran.err
    (copy / "query" / "photo.jpg").write_bytes(b"no image")
    next((copy / "bounding_box_train").iterdir()).write_bytes(b"")
    ran = run("camreid-data", "check", f"data.root={copy}", "--json")
    assert ran.code == 1
    found = {row["what"].partition(":")[0]: row["count"] for row in json.loads(ran.out)}
    assert found["files of zero bytes"] == found["images without a record"] == 1
    shutil.copy(images[2], copy / "query" / images[2].name)
    out = run("camreid-data", "check", f"data.root={copy}").out
    assert "files of zero bytes" in out
    assert f"{images[2]} = {copy}/query/{images[2].name}\n" in out


def test_check_prints_json_of_a_list_that_cannot_be_read(run: Run) -> None:
    Path("all.csv").write_text("path,identity\n")
    ran = run("camreid-data", "check", "data=csv", "data.path=all.csv", "--json")
    (row,) = json.loads(ran.out)
    assert (ran.code, row["is_fault"]) == (1, True)
    assert "all.csv lacks camera" in row["what"]


def test_names_of_two_lines_or_not_in_utf8_are_printed_in_one_line(run: Run, copy: Path) -> None:
    (copy / "query" / "a\nfault  9  b.jpg").touch()
    (copy / "query" / os.fsdecode(b"0001_c1s1_000001_\xff.jpg")).touch()
    ran = run("camreid-data", "check", f"data.root={copy}")
    assert "/a\\nfault  9  b.jpg\n" in ran.out
    (copy / "query" / "a\nfault  9  b.jpg").unlink()
    ran = run("camreid-data", "split", "+split=original", f"data.root={copy}")
    assert ran.code == 1
    assert "UTF-8" in ran.err
    assert "\n" not in ran.err.strip()
    assert not list(Path().glob("*.csv"))


def test_show_prints_the_names_of_identities(run: Run, market: Path) -> None:
    images = sorted((market / "bounding_box_train").iterdir())[:4]
    lines = [f"{path},{'ab'[n % 2]},{n // 2}" for n, path in enumerate(images)]
    Path("all.csv").write_text("\n".join(["path,identity,camera", *lines]))
    ran = run("camreid-data", "show", "data=csv", "data.path=all.csv", "--json")
    assert json.loads(ran.out) == [{"pid": name, "c1": 1, "c2": 1} for name in "ab"]
    images = [Path(lines[0].partition(",")[0])]
    Path("all.csv").write_text(Path("all.csv").read_text().replace(str(images[0]), "bad.jpg"))
    Path("bad.jpg").write_bytes(b"no image")
    ran = run("camreid-data", "show", "data=csv", "data.path=all.csv", "-o", "b.png")
    assert "bad.jpg can't be read" in ran.err
    assert "skip" not in ran.err


def test_show_draws_a_cell_for_each_identity_and_camera(run: Run, market: Path) -> None:
    ran = run("camreid-data", "show", f"data.root={market}", "-o", "sheet.png")
    assert ran.code == 0, ran.err
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (6 * 66 + 2, 20 * 130 + 2)
    ran = run("camreid-data", "show", f"data.root={market}", "-o", "sheet.png")
    assert ran.code == 1
    assert "sheet.png is there already" in ran.err


def test_split_writes_and_describes_a_manifest(run: Run, market: Path) -> None:
    ran = run("camreid-data", "split", "split=resplit", f"data.root={market}", "--json")
    assert ran.code == 0, ran.err
    split, rows = Split.load("split.csv"), json.loads(ran.out)
    assert {r["subset"]: r["images"] for r in rows}["query"] == len(split.query)
    assert rows[2]["matched"] == split.rankable["query"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("check data.root=gone", "no folder at gone: data.root=gone"),
        ("check data=csv", "data.path=FILE"),
        ("check data=nothing", "there is no data=nothing"),
        ("check data=null", "data=null: "),
        ("check data.foo=1", "data.foo"),
        ("split data.root={0}", "split="),
        ("split +split=original split.camera=9 data.root={0}", "split.camera=1"),
    ],
)
def test_a_mistake_ends_in_one_paragraph(typed: str, expected: str, run: Run, market: Path) -> None:
    ran = run("camreid-data", *typed.format(market).split())
    assert ran.code == 1
    assert expected in ran.err
    assert "\n" not in ran.err.strip()
    assert not list(Path().iterdir())


@pytest.mark.slow
def test_a_bad_image_stops_a_run_or_is_skipped_and_counted(run: Run, copy: Path) -> None:
    options = ("train", "+split=original", f"data.root={copy}", "trainer.max_epochs=1", *TINY)
    bad = sorted((copy / "bounding_box_test").glob("0[!0]*"))[0]
    bad.write_bytes(bad.read_bytes()[:300])
    ran = run(*options, "run_dir=s", "data.cache=none")
    assert ran.code == 1
    assert f"{bad} can't be read" in ran.err
    assert "camreid-evaluate checkpoint=" in ran.err
    ran = run(*options, "run_dir=r", "data.on_bad_image=skip", "data.cache=none")
    assert ran.code == 0, ran.err
    assert metrics("r")["skipped_images"] == 1
    assert bad.name not in Path("r/split.csv").read_text()
    ran = run(
        "evaluate", "checkpoint=s/checkpoints/best.ckpt", "+split=original", f"data.root={copy}",
        "data.on_bad_image=skip", "trainer=cpu", "data.workers=0", "run_dir=e",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert metrics("e")["skipped_images"] == 1


def test_a_manifest_stays_below_the_root_that_is_typed(run: Run, market: Path) -> None:
    outside, root = Path("other/0003_c1s1_000001_00.jpg"), f"data.root={market}"
    outside.parent.mkdir()
    outside.touch()
    ran = run("camreid-data", "split", "+split=original", root, "-o", "a.csv")
    assert ran.code == 0, ran.err
    with Path("a.csv").open("a") as file:
        file.write(f"gallery,{outside.absolute()},3,1,\n")
    typed = ("split", "+split=original", "split.manifest=a.csv", root)
    ran = run("camreid-data", *typed, "-o", "b.csv")
    assert ran.code == 1
    assert "outside root=" in ran.err
    assert "split.outside_root=true" in ran.err
    assert not Path("b.csv").exists()
    ran = run("camreid-data", *typed, "split.outside_root=true", "-o", "b.csv")
    assert ran.code == 0, ran.err
    assert str(outside.absolute()) in Path("b.csv").read_text()


def test_an_image_of_train_that_is_also_tested_is_named(run: Run, market: Path) -> None:
    root = f"data.root={market}"
    assert "WARNING" not in str(run("camreid-data", "split", "+split=resplit", root, "-o", "a.csv"))
    _, line, *_ = Path("a.csv").read_text().splitlines()
    with Path("a.csv").open("a") as file:
        file.write(line.replace("train,", "query,") + "\n")
    typed = ("split", "+split=original", "split.manifest=a.csv", "--json", "-o", "b.csv")
    ran = run("camreid-data", *typed)
    assert json.loads(ran.out)
    assert "WARNING: 1 images are in train and test; scores are too high" in ran.err
    assert line.split(",")[1] in ran.err
