"""The dataset of a command is what its reader returns."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints import read_checkpoint
from camreid.cli.build import build_split
from camreid.cli.checkpoints import check_dataset
from camreid.cli.dataset import read_dataset
from camreid.data import OriginalSplit, Records, read_market1501
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.provenance import PIDS, Dataset, Provenance
from camreid.runs.folder import RunFolder
from tests.cli.conftest import metrics, refused
from tests.conftest import TINY, Ran

Run = Callable[..., Ran]


def camera_one(root: str, subset: str = "train") -> Records:
    """A reader of another package, with an option."""
    images = getattr(read_market1501(root), subset)
    return Records(tuple(r for r in images if r.camera == 1), (), ())


def nothing(root: str) -> dict[str, str]:
    return {"root": root}


def options(reader: Callable[..., object], root: Path, **more: object) -> DictConfig:
    read = {"_target_": f"{reader.__module__}.{reader.__name__}", **more}
    return OmegaConf.create({"read": read, "root": str(root)})


def test_a_reader_by_target_gets_the_root_and_its_options(market: Path) -> None:
    assert {r.camera for r in read_dataset(options(camera_one, market)).train} == {1}
    test = read_dataset(options(camera_one, market, subset="gallery")).train
    assert all("bounding_box_test" in r.path for r in test)


def test_a_reader_of_another_type_is_refused(market: Path) -> None:
    with pytest.raises(InputError, match=r"nothing returned a dict.*camreid\.data\.Records"):
        read_dataset(options(nothing, market))


def test_an_expert_of_another_dataset_is_refused_only_without_its_record(market: Path) -> None:
    data = OmegaConf.merge(options(read_market1501, market), {"name": "market1501"})
    pids = LabelMap((PIDS + 1, PIDS + 2, read_market1501(market).train[0].pid))
    known = Provenance(datasets=(Dataset("market1501"), Dataset("csv")))
    expert = SimpleNamespace(path="j.ckpt", labels=pids, provenance=known)
    assert check_dataset({"joint": expert}, data) == [
        "joint: 2 of its 3 identities are not in this dataset."
    ]
    expert.provenance = Provenance()
    with pytest.raises(InputError, match="trained on another dataset"):
        check_dataset({"joint": expert}, data)


def test_a_manifest_needs_no_dataset(records: Records, tmp_path: Path) -> None:
    OriginalSplit()(records).save(tmp_path / "split.csv")
    config = {
        "split": {"manifest": str(tmp_path / "split.csv")},
        "data": {"root": None, "path": None},
    }
    assert set(build_split(OmegaConf.create(config)).query) == set(records.query)


@pytest.fixture
def named(market: Path, tmp_path: Path) -> Path:
    """A CSV file of the rendered images, with names for identities and cameras."""
    records = read_market1501(market)
    images = (*records.train, *records.query, *records.gallery)
    lines = [f"{r.path},id {r.pid},{'abcdefg'[r.camera]}" for r in images if r.pid > 0]
    path = tmp_path / "all.csv"
    path.write_text("\n".join(["path,identity,camera", *lines]))
    return path


@pytest.mark.slow
def test_a_csv_is_divided_and_its_names_are_kept(run: Run, named: Path, market: Path) -> None:
    options = ("trainer.max_epochs=1", "split.train_fraction=0.5", *TINY)
    data = ("data=csv", f"data.path={named}")
    ran = run("train", "+split=resplit", *options, *data, "run_dir=r")
    assert ran.code == 0, ran.err
    names = RunFolder("r").datasets[0]
    checkpoint = read_checkpoint("r/checkpoints/best.ckpt")
    assert checkpoint.provenance.datasets == (names,)
    known = [name for name, pid in names.identities.items() if pid in checkpoint.provenance.seen]
    rest = sorted(names.identities.keys() - known)
    # fewer identities have other numbers, and the one that was trained on is found by its name
    lines = [line.split(",") for line in named.read_text().splitlines()[1:]]
    lines = [[*line, "train" if line[1] in rest[:2] else "gallery"] for line in lines]
    keep = [line for line in lines if line[1] in (known[-1], *rest)]
    for name in (known[-1], *rest[2:]):
        next(line for line in keep if line[1] == name)[3] = "query"
    other = named.with_name("other.csv")
    other.write_text("\n".join(["path,identity,camera,subset", *map(",".join, keep)]))
    test = ("checkpoint=r/checkpoints/best.ckpt", "trainer=cpu", "data.workers=0")
    data = ("+split=original", "data=csv", f"data.path={other}", "data.name=all")
    ran = run("evaluate", *test, *data, "run_dir=e")
    assert ran.code == 0, ran.err
    assert metrics("e")["leak"]["seen"]["identities"] == 1
    ran = run("evaluate", *test, "+split=original", f"data.root={market}", "run_dir=m")
    assert ran.code == 0, ran.err
    assert metrics("m")["leak"]["seen"]["identities"] == 0


@pytest.mark.slow
def test_two_datasets_in_one_training(run: Run, named: Path, market: Path) -> None:
    also = f"data.also=[{{data:csv,path:{named}}}]"
    data = (f"data.root={market}", "trainer.max_epochs=1", *TINY)
    assert run("train", "+split=original", also, *data, "run_dir=r").code == 0
    checkpoint = read_checkpoint("r/checkpoints/best.ckpt")
    pids = checkpoint.labels.pids
    assert {pid // PIDS for pid in pids} == {0, 1}
    assert len(pids) == 12 + 24
    assert metrics("r")["leak"]["seen"]["identities"] == 0


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data=csv", "data.path=FILE"),
        ("data=csv data.path=gone.csv", "no file at gone.csv: data.path="),
        ("data=folder", "data.root=FOLDER"),
        (r"data=folder data.root=one data.camera_pattern=c(\d", "no regular expression"),
        ("data.also=[x]", "[{data:msmt17"),
        ("data.also=[{data:nothing}]", "there is no data=nothing"),
        ("data.also=[{data:market1501}]", "name:NAME"),
        ("data.read._target_=gone.reader", "gone"),
        ("data=folder data.root=one +split=original", "+split=resplit"),
    ],
)
def test_what_to_type_for_another_dataset(
    typed: str, expected: str, run: Run, market: Path, tmp_path: Path
) -> None:
    for n in (1, 2):
        (tmp_path / "one" / str(n)).mkdir(parents=True)
        (tmp_path / "one" / str(n) / "c1.jpg").touch()
    split = () if "+split" in typed else ("+split=resplit",)
    words = [word.replace("market1501}", f"market1501,root:{market}}}") for word in typed.split()]
    ran = run(
        "train",
        *split,
        "data.root=" + str(market) if "data=" not in typed else "seed=1",
        *words,
        *TINY,
        "run_dir=r",
    )
    assert expected in refused(ran)
