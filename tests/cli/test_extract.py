"""camreid-extract: files of features that do not mix models, and go on after an interruption."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from camreid import FeatureExtractor, Gallery
from camreid.checkpoints import save, save_experts
from camreid.cli import extract
from camreid.data import Records
from camreid.errors import InputError
from camreid.files import lock, unlock
from camreid.labels import LabelMap
from tests.conftest import Ran, tiny_module


def test_an_interrupted_command_goes_on(
    records: Records, run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def stop(self: FeatureExtractor, images: list[str], *_: object) -> torch.Tensor:
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return plain(self, images)

    save(tiny_module(LabelMap((5, 3))).eval(), "a.ckpt")
    images = Path(records.query[0].path).parent
    command = ("camreid-extract", "checkpoint=a.ckpt", f"images={images}", "device=cpu")
    plain = FeatureExtractor.__call__
    monkeypatch.setattr(extract, "CHUNK", 4)
    monkeypatch.setattr(FeatureExtractor, "__call__", stop)
    assert run(*command, "-o", "f.npz", "run_dir=a").code == 130
    assert not Path("f.npz").exists()
    shutil.copytree("f.npz.parts", "g.npz.parts")
    ran = run(*command, "-o", "f.npz", "run_dir=b")
    assert ran.code == 0, ran.err
    assert "nearly one vector" not in ran.out
    found = Gallery.load("f.npz")
    assert sum(seen) - seen[2] == len(found)
    assert not list(tmp_path.glob("f.npz.*"))
    extractor = FeatureExtractor("a.ckpt", normalize=True)
    assert found.source == extractor.source
    torch.testing.assert_close(found.features, plain(extractor, list(found.names)))
    assert "exists" in run(*command, "-o", "f.npz", "run_dir=c").err
    Path("g.npz.parts/mine").touch()
    shutil.copytree("g.npz.parts", "p.npz.parts")
    monkeypatch.setattr(FeatureExtractor, "__call__", lambda _, own, *__: seen.append(len(own)))
    asked = len(seen)
    run(*command, "-o", "p.npz", "run_dir=p", "precision=bfloat16")
    assert len(seen) == asked + 1  # nothing of the parts
    monkeypatch.setattr(FeatureExtractor, "__call__", plain)
    assert run(*command, "-o", "g.npz", "run_dir=d", "flip=true").code == 0  # likewise
    assert Path("g.npz.parts/mine").exists()
    monkeypatch.setattr(FeatureExtractor, "__call__", lambda _, own, *__: torch.ones(len(own), 8))
    assert "nearly one vector" in run(*command, "-o", "h.npz", "run_dir=e").out
    monkeypatch.setattr(FeatureExtractor, "__call__", plain)
    mirrored = FeatureExtractor("a.ckpt", normalize=True, flip=True)
    torch.testing.assert_close(Gallery.load("g.npz").features, plain(mirrored, list(found.names)))


def test_one_command_at_a_time_writes_an_output(
    records: Records, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(self: FeatureExtractor, images: list[str], *more: Any) -> torch.Tensor:
        Path("g.npz").write_text("mine")
        return plain(self, images, *more)

    save(tiny_module(LabelMap((5, 3))).eval(), "a.ckpt")
    folder = Path(records.query[0].path).parent
    given = ("checkpoint=a.ckpt", f"images={folder}", "device=cpu")
    command = ("camreid-extract", *given, "-o", "f.npz")
    plain = FeatureExtractor.__call__
    Path("f.npz.parts").mkdir()
    handle = lock("f.npz.parts")
    refused = run(*command, "run_dir=a")
    assert refused.code == 1
    assert "another command writes f.npz;" in refused.err
    unlock(handle)
    assert run(*command, "run_dir=b").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "save", Mock(side_effect=OSError(errno.ENOSPC, "full")))
        assert "full" in run(*command[:-1], "g.npz", "run_dir=c").err
    monkeypatch.setattr(FeatureExtractor, "__call__", late)
    assert run(*command[:-1], "g.npz", "run_dir=d").code == 1
    assert Path("g.npz").read_text() == "mine"
    assert {p.name for p in Path().glob("*.npz*")} == {"f.npz", "g.npz"}


def test_images_come_from_folders_patterns_and_csv_files(records: Records, tmp_path: Path) -> None:
    folder = Path(records.query[0].path).parent
    names = sorted(str(p) for p in folder.glob("*.jpg"))
    assert extract.list_files(folder) == (names, None)
    assert extract.list_files(folder / "0*.jpg") == (
        [n for n in names if Path(n).name[0] == "0"],
        None,
    )
    (tmp_path / ".cache" / "@" / ".old").mkdir(parents=True)
    for place in ("@/1.jpg", "@/.old/2.jpg", "@/.3.jpg"):
        (tmp_path / ".cache" / place).touch()
    visible = [str(tmp_path / ".cache" / "@" / "1.jpg")]
    assert extract.list_files(tmp_path / ".cache")[0] == visible
    table = tmp_path / "a.csv"
    table.write_text(f"path,camera\n{names[1]},3\n{names[0]},\n")
    assert extract.list_files(table) == ([names[1], names[0]], [3, None])


@pytest.mark.parametrize(
    "text", ["file\na.jpg\n", "path\nno.jpg\n", "path,camera\na.jpg,x\n", "", "path\n"]
)
def test_a_csv_that_does_not_fit_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(InputError, match=r"a\.csv"):
        extract.list_files(tmp_path / "a.csv")


def test_a_folder_of_experts_gives_their_features_side_by_side(
    experts: list[Path], records: Records, run: Callable[..., Ran], tmp_path: Path
) -> None:
    pattern = f"checkpoint={tmp_path / '*.ckpt'}"
    ran = run("camreid-export", pattern, "path=e")
    assert (ran.code, ran.err) == (0, "")
    assert [*FeatureExtractor("e").experts] == [1, 2]
    for wrong in ("path=m.onnx", "path=e", "path=g for=boxmot", "path=g input=unit", ""):
        assert run("camreid-export", pattern, *wrong.split()).code == 1
        assert not Path("g").exists()
    table = tmp_path / "i.csv"
    table.write_text("path,camera\n" + "".join(f"{r.path},{r.camera}\n" for r in records.query[:3]))
    ran = run("camreid-extract", "checkpoint=e", f"images={table}", "-o", "f.npz", "device=cpu")
    assert ran.code == 0, ran.err
    expected = FeatureExtractor(tmp_path / "e", normalize=True)([r.path for r in records.query[:3]])
    found = Gallery.load("f.npz", FeatureExtractor("e").source)
    torch.testing.assert_close(found.features, expected)


@pytest.mark.slow
def test_the_export_of_a_folder_of_experts_has_a_file_for_each(
    experts: list[Path], run: Callable[..., Ran], tmp_path: Path
) -> None:
    save_experts(tmp_path / "e", experts)
    ran = run("camreid-export", "checkpoint=e", "path=m.onnx", "run_dir=x")
    assert ran.code == 0, ran.err
    assert sorted(p.name for p in tmp_path.glob("*.onnx")) == ["m-c1.onnx", "m-c2.onnx"]
    for camera, expert in FeatureExtractor("e").experts.items():
        assert FeatureExtractor(f"m-c{camera}.onnx").source == expert.source
    (tmp_path / "e" / "c2.ckpt").unlink()
    assert "c2.ckpt" in run("camreid-export", "checkpoint=e", "path=n.onnx", "run_dir=y").err
    assert not list(tmp_path.glob("n*.onnx"))
