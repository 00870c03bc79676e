from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from camreid.data import synthetic
from camreid.data.records import ImageName, parse_name
from camreid.data.synthetic import GALLERY, QUERY, TRAIN, SyntheticMarket
from camreid.errors import InputError

SMALL = SyntheticMarket(people=12, images_per_person=6, distractors=5, junk=4)


def names_of(files: list[str], folder: str) -> list[ImageName]:
    names = [parse_name(file) for file in files if file.startswith(f"{folder}/")]
    assert None not in names
    return [name for name in names if name is not None]


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.jpg")}


def identities_per_camera(names: list[ImageName]) -> dict[int, int]:
    return Counter(camera for _, camera in {(name.pid, name.camera) for name in names})


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SMALL.render(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_parameters_give_the_same_bytes_whatever_the_workers(tmp_path, tree, workers):
    again = SMALL.render(tmp_path / "below" / "here", workers=workers)
    assert again.name == tree.name
    assert bytes_of(again) == bytes_of(tree)


def test_another_seed_gives_other_people(tmp_path):
    line = tmp_path / "names.txt"
    line.write_text("0002_c1s1_000451_03.jpg\n")
    pictures = [
        bytes_of(SyntheticMarket(seed=seed, names=str(line)).render(tmp_path)) for seed in (0, 1)
    ]
    assert pictures[0].keys() == pictures[1].keys()
    assert pictures[0] != pictures[1]
    assert SyntheticMarket(seed=0).files() != SyntheticMarket(seed=1).files()


def test_every_file_is_a_128_by_64_colour_jpeg_with_a_name_of_the_grammar(tree):
    files = sorted(bytes_of(tree))
    assert files == SMALL.files()
    for file in files:
        assert parse_name(file) is not None
        with Image.open(tree / file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 128))


def test_distractors_and_junk_are_in_the_gallery_alone():
    files = SMALL.files()
    assert Counter(n.pid for n in names_of(files, GALLERY) if n.pid < 1) == {0: 5, -1: 4}
    assert all(n.pid > 0 for folder in (TRAIN, QUERY) for n in names_of(files, folder))


def test_people_of_train_and_test_are_disjoint_and_interleaved():
    files = SyntheticMarket().files()
    train = {n.pid for n in names_of(files, TRAIN)}
    test = {n.pid for n in names_of(files, GALLERY) + names_of(files, QUERY) if n.pid > 0}
    assert len(train) == len(test) == SyntheticMarket().people // 2
    assert not train & test
    assert min(train) < max(test)
    assert min(test) < max(train)


def test_every_person_and_camera_of_the_test_set_has_one_query():
    files = SyntheticMarket().files()
    queries = Counter((n.pid, n.camera) for n in names_of(files, QUERY))
    assert set(queries.values()) == {1}
    assert queries.keys() >= {(n.pid, n.camera) for n in names_of(files, GALLERY) if n.pid > 0}


@pytest.mark.parametrize("people", [60, 240])
@pytest.mark.parametrize("seed", [0, 1])
def test_cameras_see_as_uneven_a_share_of_the_people_as_officially(people, seed):
    files = SyntheticMarket(people=people, seed=seed).files()
    seen = identities_per_camera(names_of(files, TRAIN))
    official = {1: 652, 2: 541, 3: 694, 4: 241, 5: 576, 6: 558}
    assert min(seen, key=seen.__getitem__) == 4
    assert max(seen, key=seen.__getitem__) == 3
    for camera, identities in official.items():
        assert seen[camera] == pytest.approx(identities / 751 * people / 2, abs=3)


def test_751_people_are_seen_exactly_as_in_the_official_train_set():
    names = names_of(SyntheticMarket(people=1502, images_per_person=17.2).files(), TRAIN)
    assert identities_per_camera(names) == {1: 652, 2: 541, 3: 694, 4: 241, 5: 576, 6: 558}
    cameras = defaultdict(set)
    for name in names:
        cameras[name.pid].add(name.camera)
    assert Counter(map(len, cameras.values())) == {2: 50, 3: 105, 4: 214, 5: 301, 6: 81}
    images = sorted(Counter((n.pid, n.camera) for n in names).values())
    assert 1 == images[0] < images[len(images) // 2] == 3 < images[-1] <= 44
    assert len(names) / 751 == pytest.approx(17.2, rel=0.05)


def test_the_second_call_rewrites_nothing(tmp_path):
    first = SMALL.render(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert SMALL.render(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == times


def test_an_interrupted_render_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(chunk: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_render_chunk", interrupt)
    with pytest.raises(KeyboardInterrupt):
        SMALL.render(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_tree_of_a_faster_process_is_kept(tmp_path, monkeypatch):
    theirs = tmp_path / f"synthetic-{SMALL.digest}"

    def slow(folder: Path, *_: object) -> None:
        (folder / "ours").touch()
        theirs.mkdir()
        (theirs / "theirs").touch()

    monkeypatch.setattr(synthetic, "_write", slow)
    assert SMALL.render(tmp_path) == theirs
    assert [path.name for path in theirs.iterdir()] == ["theirs"]
    assert list(tmp_path.iterdir()) == [theirs]


def test_a_list_of_names_is_rendered_as_the_tree_renders_it(tmp_path, tree):
    chosen = [SMALL.files()[0], *(f for f in SMALL.files() if f.startswith(f"{QUERY}/"))]
    listing = tmp_path / "names.txt"
    listing.write_text("\n".join([Path(chosen[0]).name, "", *chosen[1:], chosen[1]]) + "\r\n")
    root = SyntheticMarket(names=str(listing)).render(tmp_path)
    pictures = bytes_of(root)
    in_train = {f"{TRAIN}/{Path(chosen[0]).name}": bytes_of(tree)[chosen[0]]}
    assert pictures == in_train | {file: bytes_of(tree)[file] for file in chosen[1:]}
    assert (root / GALLERY).is_dir()


def test_the_digest_follows_what_is_listed_and_not_where(tmp_path):
    digests = []
    for place, line in (("a", "0002_c1s1_000451_03"), ("b", "0002_c1s1_000451_03"), ("c", "7_c2")):
        (tmp_path / place).write_text(line + ".jpg\n")
        digests.append(SyntheticMarket(names=str(tmp_path / place)).digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"people": 11}, "data.render.people=12 or more"),
        ({"distractors": -1}, "data.render.distractors=0"),
        ({"junk": -3}, "data.render.junk=-3 is negative"),
        ({"images_per_person": 2}, "data.render.images_per_person=14"),
        ({"images_per_person": float("nan")}, "data.render.images_per_person=14"),
    ],
)
def test_a_parameter_out_of_range_is_refused_with_what_to_type(parameters, says):
    with pytest.raises(InputError, match=says):
        SyntheticMarket(**parameters)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("0002_c1s1_000451_03.jpg\nphoto.jpg\n", "line 2 .*'photo.jpg'.*Expected: 0002_c1s1"),
        ("0002_c1s1_000451_03.png\n", "not an image name"),
        ("0002_c0s1_000451_03.jpg\n", "not an image name"),
        ("elsewhere/0002_c1s1_000451_03.jpg\n", "'elsewhere'.*bounding_box_train"),
        ("../query/0002_c1s1_000451_03.jpg\n", "'../query'"),
    ],
)
def test_a_bad_list_of_names_is_refused(tmp_path, text, says):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(InputError, match=says):
        SyntheticMarket(names=str(tmp_path / "names.txt")).render(tmp_path)


def test_a_missing_list_of_names_is_refused_with_its_path(tmp_path):
    with pytest.raises(InputError, match=r"data\.render\.names=.*absent\.txt cannot be read"):
        SyntheticMarket(names=str(tmp_path / "absent.txt")).render(tmp_path)
