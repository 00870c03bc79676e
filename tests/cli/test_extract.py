"""camreid-extract: files of features that do not mix models, and go on after an interruption."""

from pathlib import Path

import pytest
import torch

from camreid import FeatureExtractor, Gallery
from camreid.checkpoints.io import save
from camreid.cli import extract
from camreid.data import Records
from camreid.errors import InputError
from camreid.labels import LabelMap
from tests.conftest import tiny_module


@pytest.fixture
def options(records: Records, tmp_path: Path) -> dict[str, object]:
    save(tiny_module(LabelMap((5, 3))).eval(), tmp_path / "a.ckpt")
    typed = [f"checkpoint={tmp_path / 'a.ckpt'}", f"output={tmp_path / 'f.npz'}", "device=cpu"]
    return extract.read_options([*typed, f"images={Path(records.query[0].path).parent}"])


def test_an_interrupted_command_goes_on(
    options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def stop(self: FeatureExtractor, images: list[str], **_: object) -> torch.Tensor:
        if len(seen) == 2 and seen[0] == seen[1] == 4:
            seen.append(0)
            raise KeyboardInterrupt
        seen.append(len(images))
        return plain(self, images)

    plain = FeatureExtractor.__call__
    monkeypatch.setattr(extract, "CHUNK", 4)
    monkeypatch.setattr(FeatureExtractor, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        extract.extract(options)
    assert not (tmp_path / "f.npz").exists()
    extract.extract(options)
    found = Gallery.load(tmp_path / "f.npz")
    assert sum(seen) == len(found)
    assert {p.name for p in tmp_path.iterdir()} == {"a.ckpt", "f.npz"}
    extractor = FeatureExtractor(tmp_path / "a.ckpt", normalize=True)
    assert found.source == extractor.source
    torch.testing.assert_close(found.features, plain(extractor, list(found.names)))
    with pytest.raises(InputError, match="exists"):
        extract.extract(options)


def test_images_come_from_folders_patterns_and_csv_files(records: Records, tmp_path: Path) -> None:
    folder = Path(records.query[0].path).parent
    names = sorted(str(p) for p in folder.glob("*.jpg"))
    assert extract.list_files(folder) == (names, None)
    assert extract.list_files(folder / "0*.jpg") == (
        [n for n in names if Path(n).name[0] == "0"],
        None,
    )
    table = tmp_path / "a.csv"
    table.write_text(f"path,camera\n{names[1]},3\n{names[0]},\n")
    assert extract.list_files(table) == ([names[1], names[0]], [3, None])


@pytest.mark.parametrize("text", ["file\na.jpg\n", "path\nno.jpg\n", "path,camera\na.jpg,x\n", ""])
def test_a_csv_that_does_not_fit_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=r"a\.csv"):
        extract.list_files(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [(["colour=red"], "colour"), (["batch_size=1"], "checkpoint="), (["a b"], "a b")],
)
def test_options_that_do_not_exist_are_refused(typed: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        extract.read_options(typed)
