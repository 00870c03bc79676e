"""What is to be known of experts before their numbers are read."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

from camreid.cli.experts import Expert
from camreid.data import Split, read_market1501
from camreid.data.records import people
from camreid.errors import InputError, MissingDataset


def expert_notes(experts: Sequence[Expert], controls: Sequence[Expert], split: Split) -> list[str]:
    """Rows that are nobody's, experts of different splits, cameras without an expert or with two.

    Args:
        experts: those that are put together.
        controls: those beside them.
        split: that they are tested on.
    """
    told = []
    for row in (*experts, *controls):
        if row.labels is None:
            what = "the identities of its rows are not known" if row.rows else "it has no rows"
            told.append(f"{row.name}: {what}, so coverage is n/a.")
        if not row.provenance.complete:
            what = "may be larger" if row.provenance.seen else "is n/a"
            told.append(
                f"{row.name}: its training identities are not all known, so its leakage {what}."
            )
    return [*told, *_on_splits(experts), *_on_cameras(experts, split)]


def _on_splits(experts: Sequence[Expert]) -> list[str]:
    trained: dict[str, list[str]] = defaultdict(list)
    for expert in experts:
        split = expert.provenance.split
        if split is not None:
            options = {k: v for k, v in split.options.items() if k != "camera"}
            trained[str(replace(split, options=options, digest=None))].append(expert.name)
    if len(trained) < 2:
        return []
    found = "; ".join(f"{', '.join(names)} on {split}" for split, names in trained.items())
    return [
        f"The experts were trained on different splits ({found}), so their training identities "
        "and leakage differ."
    ]


def _on_cameras(experts: Sequence[Expert], split: Split) -> list[str]:
    counts = Counter(expert.camera for expert in experts)
    known = {camera for camera in counts if camera is not None}
    if not known:
        return []
    told = []
    lacking = sorted({record.camera for record in split.query} - known)
    if lacking:
        cameras = ", ".join(map(str, lacking))
        told.append(
            f"No expert is of camera {cameras}: where experts are chosen by camera, its images "
            "ask all of them."
        )
    twice = sorted(camera for camera in known if counts[camera] > 1)
    if twice:
        names = ", ".join(e.name for e in experts if e.camera in twice)
        told.append(
            f"Several experts are of camera {', '.join(map(str, twice))} ({names}), so none can be "
            "chosen by camera."
        )
    return told


def people_of(root: str, split: Split) -> tuple[frozenset[int], str]:
    """The identities of the whole dataset, or of the split where only a manifest is at hand.

    Args:
        root: of the dataset.
        split: of the run.

    Returns:
        They, and where they are, as `check_people` takes them.
    """
    parts = [(*split.train, *split.val, *split.query, *split.gallery)]
    try:
        records = read_market1501(root)
        parts.append((*records.train, *records.query, *records.gallery))
    except MissingDataset:
        return frozenset(people(parts[0])), "the split"
    return frozenset(pid for part in parts for pid in people(part)), f"data.root={root}"


def check_people(experts: Sequence[Expert], people: Collection[int], root: str) -> list[str]:
    """Whether the experts' people are those of the dataset.

    Args:
        experts: of the matrix.
        people: identities of the whole dataset.
        root: where it is, for messages.

    Returns:
        What there is to say.

    Raises:
        InputError: an expert most of whose people are not in the dataset, so of another one.
    """
    told = []
    for expert in experts:
        if expert.labels is None:
            continue
        strangers = [pid for pid in expert.labels.pids if pid not in people]
        if 2 * len(strangers) > expert.rows:
            rest = ",".join(e.path for e in experts if e is not expert)
            raise InputError(
                f"{expert.path} is of another dataset: {len(strangers)} of its {expert.rows} "
                f"people (such as {strangers[:3]}) are not among the {len(people)} of {root}, "
                "where a number is another person's, so coverage and leak would be false. Its "
                f"retrieval can be shown by camreid-evaluate checkpoint={expert.path}. Leave it "
                f"out, as in [{rest}], or type data=market1501 data.root=FOLDER with its dataset."
            )
        if strangers:
            told.append(
                f"{expert.name}: {len(strangers)} of its {expert.rows} people are not in this "
                "dataset."
            )
    return told
