import errno
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from camreid.data import ImageRecord, Resplit, SyntheticMarket, read_market1501
from camreid.data.dataset import read_image
from camreid.data.records import GALLERY, QUERY, TRAIN, parse_name
from camreid.errors import CannotWrite, InputError

SMALL = SyntheticMarket(people=12, images_per_person=6, distractors=5, junk=4)


def names_of(files: list[str], *folders: str) -> list[ImageRecord]:
    return [parse_name(file) for file in files if file.startswith(folders)]


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.jpg")}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SMALL.render(tmp_path_factory.mktemp("small"))


def test_the_same_parameters_give_the_same_bytes_and_are_rendered_once(tmp_path, tree):
    again = SMALL.render(tmp_path / "below" / "here")
    assert again.name == tree.name
    assert bytes_of(again) == bytes_of(tree)
    times = {path: path.stat().st_mtime_ns for path in again.rglob("*")}
    assert SMALL.render(again.parent) == again
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*")} == times


def test_files_are_colour_jpegs_with_junk_and_distractors_in_the_gallery_alone(tree):
    files = SMALL.files()
    assert sorted(bytes_of(tree)) == files
    for file in files:
        with Image.open(tree / file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 128))
    assert Counter(n.pid for n in names_of(files, GALLERY) if n.pid < 1) == {0: 5, -1: 4}
    assert all(n.pid > 0 for n in names_of(files, TRAIN, QUERY))


@pytest.mark.parametrize("seed", [0, 1])
def test_identities_are_divided_and_spread_as_in_the_official_dataset(seed):
    files = SyntheticMarket(seed=seed).files()
    train, test = names_of(files, TRAIN), names_of(files, GALLERY, QUERY)
    train_pids, test_pids = ({n.pid for n in part if n.pid > 0} for part in (train, test))
    assert len(train_pids) == len(test_pids) == 120
    assert not train_pids & test_pids
    queries = Counter((n.pid, n.camera) for n in names_of(files, QUERY))
    assert set(queries.values()) == {1}
    assert queries.keys() == {(n.pid, n.camera) for n in test if n.pid > 0}
    pairs = {(n.pid, n.camera) for n in train}
    for camera, identities in {1: 652, 2: 541, 3: 694, 4: 241, 5: 576, 6: 558}.items():
        assert sum(c == camera for _, c in pairs) == pytest.approx(identities / 751 * 120, abs=3)
    assert min(Counter(pid for pid, _ in pairs).values()) >= 2
    images = sorted(Counter((n.pid, n.camera) for n in train).values())
    assert 1 == images[0] < images[len(images) // 2] < images[-1] <= 44
    assert len(train) / 120 == pytest.approx(14, rel=0.1)


def test_a_colour_histogram_does_not_find_identities(tmp_path):
    split = Resplit()(read_market1501(SyntheticMarket(60, 8).render(tmp_path)))
    gallery = torch.stack([_histogram(r.path) for r in split.gallery])
    found = 0
    for query in split.query:
        other = torch.tensor([r.camera != query.camera for r in split.gallery])
        scores = torch.where(other, gallery @ _histogram(query.path), -1)
        found += split.gallery[int(scores.argmax())].pid == query.pid
    assert found < 0.2 * len(split.query)


def _histogram(path: str) -> torch.Tensor:
    """(512,) square roots of the joint RGB histogram, 8 bins a channel."""
    red, green, blue = read_image(path).long() // 32
    return torch.bincount((red * 64 + green * 8 + blue).flatten(), minlength=512).float().sqrt()


def test_an_interrupted_render_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("camreid.data.rendering.render_jpeg", interrupt)
    with pytest.raises(KeyboardInterrupt):
        SMALL.render(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_tree_of_a_faster_process_is_kept(tmp_path, monkeypatch):
    final = tmp_path / f"synthetic-{SMALL.digest}"

    def other(*_: object) -> bytes:
        (final / "first").mkdir(parents=True, exist_ok=True)
        return b""

    monkeypatch.setattr("camreid.data.rendering.render_jpeg", other)
    assert SMALL.render(tmp_path) == final
    assert list(tmp_path.rglob("*")) == [final, final / "first"]


def test_a_list_of_names_is_rendered_as_the_tree_renders_it(tmp_path, tree):
    chosen = [SMALL.files()[0], *(f for f in SMALL.files() if f.startswith(f"{QUERY}/"))]
    listings = [tmp_path / "a", tmp_path / "b"]
    for listing in listings:
        listing.write_text("\n".join([Path(chosen[0]).name, "", *chosen[1:], chosen[1]]) + "\r\n")
    root, other = (
        SyntheticMarket(seed=seed, names=str(listings[0])).render(tmp_path) for seed in (0, 1)
    )
    pictures = bytes_of(tree)
    in_train = {f"{TRAIN}/{Path(chosen[0]).name}": pictures[chosen[0]]}
    assert bytes_of(root) == in_train | {file: pictures[file] for file in chosen[1:]}
    assert bytes_of(other).keys() == bytes_of(root).keys()
    assert bytes_of(other) != bytes_of(root)
    assert root.name == f"synthetic-{SyntheticMarket(names=str(listings[1])).digest}"


def test_a_bad_list_of_names_is_refused(tmp_path):
    names = tmp_path / "names.txt"
    with pytest.raises(InputError, match="cannot be read"):
        SyntheticMarket(names=str(names)).render(tmp_path)
    for text, found in (("", "is empty"), ("\nphoto.jpg\n", "line 2"), ("x/0002_c1.jpg", "line 1")):
        names.write_text(text)
        with pytest.raises(InputError, match=found):
            SyntheticMarket(names=str(names)).render(tmp_path)


def test_what_a_killed_rendering_left_is_removed(tmp_path: Path) -> None:
    market = SyntheticMarket(people=12, images_per_person=5, distractors=0, junk=0)
    left = tmp_path / f".synthetic-{market.digest}.123.part" / "query"
    left.mkdir(parents=True)
    final = market.render(tmp_path)
    assert list(tmp_path.iterdir()) == [final]


def test_a_full_disk_is_named_with_the_place_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("camreid.data.rendering.render_jpeg", full)
    with pytest.raises(CannotWrite, match=r"synthetic-.*No space left"):
        SyntheticMarket(people=12).render(tmp_path)
    assert not list(tmp_path.iterdir())
