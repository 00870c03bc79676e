"""What the files of a run and of a matrix hold, as far as a page shows it."""

from camreid.runs.comparing.forms import (
    each,
    ends,
    having,
    many,
    maybe,
    number,
    square,
    text,
    truth,
    whole,
)

_SCORES = ("mAP", "mINP", "rank1", "rank5", "rank10", "valid_queries")
_RETRIEVAL = having(dict.fromkeys(_SCORES, number))
_PEOPLE = having({"identities": whole, "queries": whole, **dict.fromkeys(_SCORES, maybe(number))})
_LEAK = having(dict.fromkeys(("all", "seen", "unseen"), _PEOPLE))
_IMAGES = having(dict.fromkeys(("query", "query_trained", "gallery", "gallery_trained"), whole))
_PAIRS = square("cameras", ("mAP", "rank1"), whole)
_SPLIT = having({}, {"digest": text, "strategy": text})
_ORIGIN = having({}, {"command": text, "commit": text, "versions": each(text)})
_ABOUT = {"split": _SPLIT, "weights": text, "seen_complete": truth, "partial": truth}

METRICS = having(
    {"retrieval": _RETRIEVAL, "leak": _LEAK},
    {
        **_ABOUT,
        "intervals": each(ends),
        "evaluation": each(lambda value, where: None),  # checked where it is used
        "protocol": text,
        "features": text,
        "images_seen": whole,
        "dropped_queries": whole,
        "leaked_images": _IMAGES,
        "camera_pairs": _PAIRS,
        "origin": _ORIGIN,
    },
)

_HEAD = having(
    {
        "head": text,
        **dict.fromkeys(("rows", "dim", "identities", "shared", "unknown", "misplaced"), whole),
        "coverage": number,
        "image_coverage": number,
    },
    {"camera": whole, "members": whole},
)
HEAD_CHECK = having({"unknown": text, "heads": many(_HEAD)}, {"faults": many(text)})

# beside a checkpoint's weights, and beside features
ORIGIN_NOTES = having(
    {},
    {
        "split": _SPLIT,
        **dict.fromkeys(("config", "command", "commit"), text),
        "versions": each(text),
    },
)
FEATURE_NOTES = having({}, {**_ABOUT, "seen": many(whole), "camera": whole, "kind": text})

_CAMERA = having({"retrieval": _RETRIEVAL}, {"intervals": each(ends)})
_ROW = having(
    {"retrieval": _RETRIEVAL, "by_camera": each(maybe(_CAMERA)), "leak": maybe(_LEAK)},
    {
        "intervals": each(ends),
        "camera_pairs": _PAIRS,
        "checkpoint": text,
        "features": text,
        "seen_complete": truth,
        "coverage": number,
        **dict.fromkeys(("camera", "rows", "images_seen"), whole),
    },
)
_BEST = having(dict.fromkeys(("mAP", "rank1"), maybe(text)))
_DIFFERENCE = having(
    {"value": number, "p": number, **dict.fromkeys(("low", "high"), maybe(number))}
)
_COMPARED = having(
    {"identities": whole, "queries": whole},
    {
        **dict.fromkeys(("leaks", "complete"), truth),
        "rows": each(having({"retrieval": _RETRIEVAL, "by_camera": each(maybe(_CAMERA))})),
    },
)
_SPACES = having({"images": whole})
_SQUARES = square("experts", ("agreement", "cka"), text)


def _spaces(value: object, where: str) -> None:
    _SPACES(value, where)
    _SQUARES(value, where)


MATRIX = having(
    {
        "experts": each(_ROW),
        "combinations": each(_ROW),
        "cameras": many(whole),
        "protocol": text,
        "best": having({"all": _BEST}),
        "differences": each(having(dict.fromkeys(("mAP", "rank1"), _DIFFERENCE))),
        "evaluation": each(lambda value, where: None),
    },
    {
        "split": _SPLIT,
        "partial": truth,
        "controls": each(_ROW),
        "compared": _COMPARED,
        "left_out": each(text),
        "notes": many(text),
        "spaces": _spaces,
        "origin": _ORIGIN,
    },
)
