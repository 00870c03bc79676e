"""Reading run folders: what each holds, and what it lacks."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from camreid.errors import InputError
from camreid.evaluation import FeatureTable, RankingResult, RankOptions
from camreid.runs.comparing.contents import HEAD_CHECK
from camreid.runs.comparing.contents import METRICS as METRICS_FORM
from camreid.runs.comparing.forms import Form, FormError

CONFIGS = ("config.yaml", ".hydra/config.yaml")  # the second, where features alone were ranked
METRICS, HEAD, FEATURES, SPLIT = (
    "metrics.json",
    "head_check.json",
    "features.safetensors",
    "split.csv",
)
NUMBERS = ("retrieval", "intervals", "leak", "evaluation")
# recomputed numbers may differ by the rounding of another device, which moves a rank or two
TOLERANCE = 1e-3


@dataclass(frozen=True)
class RunFolder:
    """What a run has left.

    Attributes:
        letter: what the run is called in a comparison.
        path: the folder, as it was typed.
        config: the resolved config, without the folder that it names.
        head: `head_check.json`, None if there is none.
        metrics: `metrics.json`, None if the run has not been tested.
        table: features of its test, None if they were not kept.
        result: the ranking of `table`.
        lacks: what is missing and how to get it, empty if nothing is.
    """

    letter: str
    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None
    table: FeatureTable | None = None
    result: RankingResult | None = None
    lacks: str = ""

    @property
    def seen(self) -> frozenset[int]:
        """Whom the tested weights were trained on; empty if it is not known."""
        notes = {} if self.table is None else self.table.notes
        return frozenset(pid for pid in notes.get("seen") or () if pid > 0)

    @property
    def weights(self) -> str | None:
        """The checkpoint that was tested, None if it is not known."""
        return None if self.metrics is None else self.metrics.get("weights")

    @property
    def seen_complete(self) -> bool:
        """Whether `seen` is everyone whom they were trained on."""
        known = (self.metrics or {}).get("seen_complete")
        return (self.table is None or bool(self.seen)) if known is None else bool(known)

    @property
    def images_seen(self) -> int | None:
        """How many images those weights were trained on, None if it is not known."""
        return None if self.metrics is None else self.metrics.get("images_seen")

    @property
    def options(self) -> RankOptions:
        """How its test is ranked.

        Raises:
            InputError: an option that is not known.
        """
        known = {option.name for option in fields(RankOptions)}
        given = dict((self.metrics or {})["evaluation"])
        return RankOptions(**{name: given[name] for name in known & given.keys()})


def read_run(letter: str, path: str | Path) -> RunFolder:
    """Read a run folder and rank its features again.

    Args:
        letter: what to call it.
        path: the folder.

    Raises:
        InputError: it is no run folder, a file of it is broken, or its features do not give the
            numbers of its `metrics.json`.
    """
    path = Path(path)
    _require_run(path)
    config = next((path / name for name in CONFIGS if (path / name).is_file()), None)
    parsed = {} if config is None else _parse(config, yaml.safe_load)
    parsed.pop("run_dir", None)
    head = _parse(path / HEAD, json.loads) if (path / HEAD).is_file() else None
    if head is not None:
        _check(path / HEAD, head, HEAD_CHECK)
    if not (path / METRICS).is_file():
        return RunFolder(letter, path, parsed, head, lacks=_untested(letter, path))
    metrics = _parse(path / METRICS, json.loads)
    missing = [name for name in NUMBERS if not isinstance(metrics.get(name), dict)]
    if missing:
        raise InputError(
            f"{path / METRICS} lacks {', '.join(missing)}: it was written by another program or "
            f"version. {_evaluate(path)} and compare that folder."
        )
    _check(path / METRICS, metrics, METRICS_FORM)
    source = next((p for p in (path / FEATURES, _named(metrics)) if p and p.is_file()), None)
    if source is None:
        lacks = (
            f"{letter} ({path}) has no {FEATURES}, as with evaluation.save_features=false, so its "
            f"numbers are shown and nothing is paired. {_evaluate(path)} and compare that folder."
        )
        return RunFolder(letter, path, parsed, head, metrics, lacks=lacks)
    run = RunFolder(letter, path, parsed, head, metrics, FeatureTable.load(source))
    return _ranked(run, source)


def _ranked(run: RunFolder, source: Path) -> RunFolder:
    """The run with its ranking, which must be that of its `metrics.json`."""
    assert run.table is not None
    assert run.metrics is not None
    _check_origin(run, source)
    result, _ = run.options.rank(run.table)
    then = run.metrics["retrieval"]
    now = {"mAP": result.mAP, "valid_queries": float(result.valid_queries)}
    if now["valid_queries"] != then["valid_queries"] or abs(now["mAP"] - then["mAP"]) > TOLERANCE:
        raise _unfit(
            run,
            source,
            f"mAP {100 * now['mAP']:.1f} % of {result.valid_queries} queries, and that file says "
            f"{100 * then['mAP']:.1f} % of {then['valid_queries']:.0f}",
        )
    return RunFolder(run.letter, run.path, run.config, run.head, run.metrics, run.table, result)


def _check_origin(run: RunFolder, source: Path) -> None:
    """Refuse features of another split or other weights than the numbers are of."""
    assert run.table is not None
    assert run.metrics is not None
    for name in ("split", "weights"):
        then, now = run.metrics.get(name), run.table.notes.get(name)
        if then and now and then != now:
            raise _unfit(run, source, f"{name} {now}, and that file says {then}")


def _unfit(run: RunFolder, source: Path, what: str) -> InputError:
    return InputError(
        f"the features of {run.letter} ({source}) are not those of {run.path / METRICS}: they give "
        f"{what}. One of the two is of another test. {_evaluate(run.path)} and compare that folder."
    )


def _require_run(path: Path) -> None:
    if not path.is_dir():
        what = (
            f"is a file: type its run folder, {_home(path)}"
            if path.is_file()
            else (
                "is not there; type folders that camreid-train or camreid-evaluate wrote, such as "
                "runs/RUN"
            )
        )
        raise InputError(f"{path} {what}.")
    if (path / "matrix.json").is_file():
        raise InputError(
            f"{path} is the folder of a matrix, which compares its rows itself: type "
            f"camreid-report {path} to see them. To compare a row with a run, type "
            f"camreid-evaluate features={path}/features/NAME.safetensors run_dir={path}-NAME, and "
            "compare that folder."
        )
    if any((path / name).exists() for name in (*CONFIGS, METRICS, HEAD, SPLIT, "checkpoints")):
        return
    inner = sorted(p.name for p in path.iterdir() if p.is_dir() and (p / METRICS).is_file())
    held = ", ".join(sorted(p.name for p in path.iterdir())[:4]) or "nothing"
    hint = f" Type one of its runs, such as {path / inner[0]}." if inner else ""
    raise InputError(
        f"{path} is no run folder: it holds {held}; expected {CONFIGS[0]}, {METRICS} and "
        f"{FEATURES}, as camreid-train and camreid-evaluate write them.{hint}"
    )


def _home(path: Path) -> Path:
    """The run folder that a file of one is in."""
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _parse(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} can't be read ({type(error).__name__}): it is cut short or was changed by "
            "hand. Run that command again, in another folder."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}, and not options or numbers by name. Run "
            "that command again, in another folder."
        )
    return content


def _check(path: Path, content: Mapping[str, Any], form: Form) -> None:
    try:
        form(content, "")
    except FormError as error:
        raise InputError(
            f"{path} is not as a run writes it: {error}. It was changed by hand, or written by "
            "another version. Run that command again, in another folder."
        ) from error


def _named(metrics: Mapping[str, Any]) -> Path | None:
    """The features that were ranked, where the run was given a file of them."""
    return Path(metrics["features"]) if isinstance(metrics.get("features"), str) else None


def _untested(letter: str, path: Path) -> str:
    last = path / "checkpoints" / "last.ckpt"
    resume = f"resume={last} with the options as before to finish it, or " if last.exists() else ""
    shown = "what it has of config and head check is shown, and no numbers."
    if not (path / "checkpoints").is_dir():
        return (
            f"{letter} ({path}) has no {METRICS} and no checkpoints: {shown} Its run stopped "
            "before the first epoch ended; run that command again, in another folder."
        )
    return (
        f"{letter} ({path}) has no {METRICS}: its training has not ended, or test=false; {shown} "
        f"Type {resume}{_evaluate(path).removeprefix('Type ')} and compare that folder."
    )


def _evaluate(path: Path) -> str:
    """The command that tests what a run has trained, or what was tested in it."""
    kept = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    checkpoint = next((str(p) for p in kept if p.exists()), "CKPT")
    return (
        f"Type camreid-evaluate checkpoint={checkpoint} +split=resplit "
        f"split.manifest={path / SPLIT} run_dir={path}-test"
    )
