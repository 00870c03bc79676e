"""A student of several experts, through the real command."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from camreid.checkpoints.io import load, read_checkpoint
from camreid.data import OriginalSplit, Records
from camreid.labels import LabelMap
from tests.cli.conftest import imported, refused
from tests.conftest import TINY, Ran, tiny_module

Run = Callable[..., Ran]
DISTILL = ("+split=original", "+experiment=distill")


def typed(paths: list[Path]) -> str:
    return f"distill.teachers=[{','.join(map(str, paths))}]"


@pytest.fixture
def student(run: Run, market: Path) -> Run:
    options = (f"data.root={market}", *TINY, "trainer.max_epochs=1", "run_dir=r")
    return partial(run, "camreid-train", *options)


@pytest.mark.slow
def test_a_student_of_two_experts(
    student: Run, run: Run, experts: list[Path], records: Records, market: Path
) -> None:
    more = LabelMap((*load(experts[0]).labels.pids, 9001))  # an identity without images here
    imported(experts[0], 1, more, seed=1)
    ran = student(*DISTILL, "distill.teachers='?.ckpt'", "distill.similarity_weight=1")
    assert ran.code == 0, ran.err
    assert "Note    c1: 1 of its" in ran.out
    assert f"Teacher c1: {experts[0].name}" in ran.out
    with Path("r/metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for name in ("similarity", "logit"):
        assert any(float(line[f"train/{name}_loss"] or 0) > 0 for line in lines)

    found = read_checkpoint("r/checkpoints/best.ckpt")
    own = OriginalSplit()(records)
    assert found.provenance.seen == set(own.labels.pids) | {9001}
    parents = [(p.role, p.path, p.split.camera) for p in found.provenance.parents]
    assert parents == [("teacher", "1.ckpt", 1), ("teacher", "2.ckpt", 2)]
    assert yaml.safe_load(found.notes["config"])["distill"]["teachers"] == ["1.ckpt", "2.ckpt"]
    assert set(found.state) == set(tiny_module(own.labels).model.state_dict())

    leak = json.loads(Path("r/metrics.json").read_text())["leak"]
    assert leak["seen"]["identities"] == 0
    shown = run(
        "camreid-matrix", f"experts=[r/checkpoints/best.ckpt,{experts[0]}]", "+split=original",
        f"data.root={market}", "trainer=cpu", "trainer.enable_progress_bar=false",
        "data.workers=0", "run_dir=m", "fusion=[]",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    assert list(json.loads(Path("m/matrix.json").read_text())["experts"]) == ["r", "c1"]


@pytest.mark.slow
def test_resume_goes_on_with_the_same_teachers(student: Run, experts: list[Path]) -> None:
    whole = student(*DISTILL, typed(experts), "run_dir=whole", "trainer.max_epochs=2")
    assert whole.code == 0, whole.err
    options = ("trainer.max_epochs=2", "resume=r/checkpoints/last.ckpt")
    assert student(*DISTILL, typed(experts)).code == 0
    for other in ((*DISTILL, typed(experts[:1])), ("+split=original",)):
        ran = student(*other, *options)
        assert ran.code == 1
        assert all(str(path) in ran.err for path in experts)
    ran = student(*DISTILL, *options, typed(experts))
    assert ran.code == 0, ran.err
    resumed, straight = (read_checkpoint(f"{f}/checkpoints/last.ckpt") for f in ("r", "whole"))
    assert resumed.provenance == straight.provenance


@pytest.mark.slow
def test_init_recipes_and_anonymous_teachers_go_together(
    student: Run, experts: list[Path], records: Records, tmp_path: Path
) -> None:
    start = imported(tmp_path / "start.ckpt", 3, OriginalSplit(camera=3)(records).labels, seed=3)
    anonymous = imported(tmp_path / "anonymous.ckpt", None, LabelMap.anonymous(4), seed=0)
    ran = student(
        "+split=original", "+experiment=[finetune,distill]", f"init={start}",
        typed([*experts, anonymous]), "model.network.pool=avg", "model.unknown=extend",
        "distill.similarity_weight=1", "trainer.precision=bf16-mixed",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = read_checkpoint("r/checkpoints/best.ckpt").provenance
    assert [p.role for p in found.parents] == ["init", "teacher", "teacher", "teacher"]
    assert not found.complete


@pytest.mark.slow
def test_teachers_that_are_refused(student: Run, experts: list[Path], tmp_path: Path) -> None:
    other = imported(tmp_path / "other.ckpt", 3, LabelMap((7001, 7002, 7003)), seed=3)
    anonymous = imported(tmp_path / "anonymous.ckpt", None, LabelMap.anonymous(4), seed=0)
    for options, expected in (
        ((), "distill.teachers="),
        (("distill.teachers='nowhere/*.ckpt'",), "nowhere/*.ckpt"),
        ((typed([*experts, other]),), "another dataset: 3 of its 3"),
        ((typed([anonymous]),), "distill.logit_weight=0"),
        ((typed(experts), "distill.logit_temperature=0"), "logit_temperature=0"),
        ((typed(experts), "+distill.warmth=2"), "warmth"),
    ):
        assert expected in refused(student(*DISTILL, *options))


@pytest.mark.slow
def test_two_processes_have_teachers_each(
    experts: list[Path], market: Path, tmp_path: Path
) -> None:
    options = [option for option in TINY if option != "trainer=cpu"]
    command = [
        sys.executable, "-m", "camreid.cli.train", *DISTILL, f"data.root={market}", *options,
        typed(experts), "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
        "trainer.max_epochs=1", "run_dir=r", "test=false",
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("Teacher c1") == 1
