"""Experts that teach one student, through the real commands."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from camreid.checkpoints.io import load, read_checkpoint, save
from camreid.data import OriginalSplit, Records
from camreid.labels import LabelMap
from tests.cli.experts import refused as refused_run
from tests.conftest import TINY, Ran, tiny_module, trained

Run = Callable[..., Ran]
DISTILL = ("+split=original", "+experiment=distill")


def expert(path: Path, camera: int | None, labels: LabelMap) -> Path:
    """A checkpoint of a camera's expert, without any training."""
    module = tiny_module(labels)
    torch.manual_seed(camera or 0)
    with torch.no_grad():
        for parameter in module.model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    save(trained(module, camera).eval(), path)
    return path


@pytest.fixture
def experts(records: Records, tmp_path: Path) -> list[Path]:
    return [
        expert(tmp_path / f"c{c}.ckpt", c, OriginalSplit(camera=c)(records).labels) for c in (1, 2)
    ]


def typed(paths: list[Path]) -> str:
    return f"distill.teachers=[{','.join(map(str, paths))}]"


@pytest.fixture
def student(run: Run, market: Path) -> Run:
    def command(*arguments: object) -> Ran:
        options = (f"data.root={market}", *TINY, "trainer.max_epochs=1", "run_dir=r")
        return run("camreid-train", *options, *arguments)

    return command


@pytest.fixture
def refused(student: Run) -> Callable[..., str]:
    return lambda *arguments: refused_run(student(*arguments))


@pytest.mark.slow
def test_a_student_of_two_experts(
    student: Run, run: Run, experts: list[Path], records: Records, market: Path
) -> None:
    stranger = LabelMap((*load(experts[0]).labels.pids, 9001))  # who is in no image of the split
    expert(experts[0], 1, stranger)
    ran = student(*DISTILL, "distill.teachers='c*.ckpt'", "distill.similarity_weight=1")
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
    assert [(p.role, p.split.camera) for p in found.provenance.parents] == [
        ("teacher", 1),
        ("teacher", 2),
    ]
    assert [t["camera"] for t in found.notes["teachers"]] == [1, 2]
    listed = yaml.safe_load(found.notes["config"])["distill"]["teachers"]
    assert listed == ["c1.ckpt", "c2.ckpt"] == [t["path"] for t in found.notes["teachers"]]
    assert set(found.state) == set(tiny_module(own.labels).model.state_dict())

    split = ("+split=resplit", "split.exclude_seen=r/checkpoints/best.ckpt")
    again = student(*split, "run_dir=again", "test=false")
    assert again.code == 0, again.err
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
    options = (*DISTILL, "trainer.max_epochs=2", "resume=r/checkpoints/last.ckpt")
    assert student(*DISTILL, typed(experts)).code == 0
    other = student(*options, typed(experts[:1]))
    assert other.code == 1
    assert f"taught by 2 teachers, and this command names 1, or others. Type {DISTILL[1]}" in (
        other.err
    )
    without = student("+split=original", *options[2:])
    assert without.code == 1
    assert "this command names 0" in without.err
    ran = student(*options, typed(experts))
    assert ran.code == 0, ran.err
    resumed, straight = (read_checkpoint(f"{f}/checkpoints/last.ckpt") for f in ("r", "whole"))
    assert resumed.provenance == straight.provenance


@pytest.mark.slow
def test_init_and_other_experiments_go_with_teachers(
    student: Run, experts: list[Path], records: Records, tmp_path: Path
) -> None:
    start = expert(tmp_path / "start.ckpt", 3, OriginalSplit(camera=3)(records).labels)
    ran = student(
        "+split=original", "+experiment=[finetune,distill]", f"init={start}", typed(experts),
        "model.network.pool=avg", "model.unknown=extend", "trainer.max_epochs=1",
        "distill.similarity_weight=1", "trainer.precision=bf16-mixed",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = read_checkpoint("r/checkpoints/best.ckpt")
    assert [p.role for p in found.provenance.parents] == ["init", "teacher", "teacher"]


@pytest.mark.slow
def test_provenance_is_not_complete_if_that_of_a_teacher_is_not(
    student: Run, experts: list[Path], records: Records, tmp_path: Path
) -> None:
    labels = LabelMap.anonymous(4)
    unknown = expert(tmp_path / "nobody.ckpt", None, labels)
    ran = student(*DISTILL, typed([*experts, unknown]))
    assert ran.code == 0, ran.err
    assert "nobody" in ran.out
    assert not read_checkpoint("r/checkpoints/best.ckpt").provenance.complete


def test_no_teachers(refused: Callable[..., str]) -> None:
    for none in ((), ("distill.teachers=[]",)):
        said = refused(*DISTILL, *none)
        assert "no teachers were given" in said
        assert "distill.teachers=" in said
    said = refused(*DISTILL, "distill.teachers='nowhere/*.ckpt'")
    assert "no file matches distill.teachers='nowhere/*.ckpt'" in said
    said = refused("+split=original", "distill.teachers=[a.ckpt]")
    assert "chosen with +experiment=distill" in said
    assert "type +experiment=distill" in refused("+split=original", "distill=3")


def test_teachers_that_are_none(
    refused: Callable[..., str], experts: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.ckpt"
    broken.write_text("nothing")
    said = refused(*DISTILL, typed([*experts, broken]))
    assert "broken.ckpt can't be read as a checkpoint" in said
    other = expert(tmp_path / "other.ckpt", 3, LabelMap((7001, 7002, 7003)))
    said = refused(*DISTILL, typed([*experts, other]))
    assert "another dataset: 3 of its 3 identities" in said


def test_lessons_that_can_not_be_given(
    refused: Callable[..., str], experts: list[Path], records: Records, tmp_path: Path
) -> None:
    nobody = expert(tmp_path / "nobody.ckpt", None, LabelMap.anonymous(4))
    assert "distill.logit_weight=0" in refused(*DISTILL, typed([nobody]))
    said = refused(*DISTILL, typed(experts), "distill.logit_temperature=0")
    assert "logit_temperature=0" in said
    said = refused(*DISTILL, typed(experts), "+distill.warmth=2")
    assert "warmth" in said


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
