"""camreid-extract: the features of images as a file."""

import argparse
import csv
import glob
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from camreid.cli.errors import one_paragraph
from camreid.errors import InputError
from camreid.files import CONF

CHUNK = 1024  # images between two savings


def main() -> None:
    """The console script."""
    form, options = argparse.RawDescriptionHelpFormatter, (CONF / "extract.yaml").read_text()
    parser = argparse.ArgumentParser(
        "camreid-extract", description=f"Options KEY=VALUE:\n\n{options}", formatter_class=form
    )
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("-o", "--output", metavar="FILE", help="the same as output=FILE")
    with one_paragraph("camreid-extract"):
        typed = parser.parse_args()
        output = [f"output={typed.output}"] if typed.output else []
        extract(read_options([*typed.options, *output]))


def read_options(typed: list[str]) -> dict[str, Any]:
    """The options of `conf/extract.yaml` with what was typed."""
    config = DictConfig(OmegaConf.load(CONF / "extract.yaml"))
    OmegaConf.set_struct(config, True)
    try:
        config.merge_with_dotlist(typed)
    except (OmegaConfBaseException, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{' '.join(typed)}: {reason}. --help lists the options.") from error
    missing = [f"{key}=" for key in map(str, config) if OmegaConf.is_missing(config, key)]
    if missing:
        raise InputError(f"{', '.join(missing)} is missing; --help shows what to type.")
    return {str(key): value for key, value in config.items()}


def extract(options: dict[str, Any]) -> None:
    """Extract in chunks, which the same command reads again after an interruption."""
    output = Path(str(options["output"])).expanduser()
    paths, cameras = list_files(Path(str(options["images"])).expanduser())
    if output.exists():
        raise InputError(f"output={output} exists; type another -o, or remove the file.")
    from tqdm import tqdm  # torch only now: a wrong path ends quickly

    from camreid.cli.checkpoints import read_checkpoint
    from camreid.gallery import Gallery, require_format
    from camreid.inference import FeatureExtractor

    require_format(output)
    names = ("device", "batch_size", "workers", "flip", "neck", "precision")
    how = {name: options[name] for name in names}
    extractor = FeatureExtractor(read_checkpoint(options["checkpoint"]).module(), **how)
    notes = {"checkpoint": str(options["checkpoint"]), **{k: how[k] for k in ("flip", "neck")}}
    found, parts = Gallery(extractor.source, notes=notes), output.with_name(f"{output.name}.parts")
    print(f"Extracting features of {len(paths):,} images", flush=True)
    with tqdm(total=len(paths), unit="image", disable=None) as bar:
        for start in range(0, len(paths), CHUNK):
            own, file = paths[start : start + CHUNK], parts / f"{start:09}.safetensors"
            part = _saved(file, found, own)
            if part is None:
                part = Gallery(extractor.source, notes=notes)
                numbers = cameras and cameras[start : start + CHUNK]
                part.add(extractor(own, cameras=numbers), own)
                part.save(file)
            found.add(part.features, own)
            bar.update(len(own))
    found.save(output)
    shutil.rmtree(parts)
    print(f"Written to {output}: {len(found):,} x {found.features.shape[1]}, of {found.source}")


def _saved(file: Any, of: Any, names: list[str]) -> Any:
    """A chunk of an interrupted command with the same model, options and images, else None."""
    if not file.is_file():
        return None
    part = type(of).load(file)
    is_same = part.source == of.source and part.notes == of.notes and [*part.names] == names
    return part if is_same else None


def list_files(images: Path) -> tuple[list[str], list[int | None] | None]:
    """The images of a folder, pattern or CSV, in order; their cameras where a CSV has them."""
    if images.suffix == ".csv":
        return _of_csv(images)
    found = images.rglob("*") if images.is_dir() else map(Path, glob.glob(str(images)))
    formats = Image.registered_extensions()
    files = [p for p in found if p.suffix.lower() in formats and not p.name.startswith(".")]
    if not files:
        raise InputError(f"images={images}: expected a folder, a pattern or a CSV of images.")
    return sorted(map(str, files)), None


def _of_csv(path: Path) -> tuple[list[str], list[int | None] | None]:
    """Paths are relative to the folder of the CSV; an empty camera is an unknown one."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        files = [str(path.parent / row["path"]) for row in rows]
        cameras = [int(row["camera"] or 0) or None for row in rows if "camera" in row]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"images={path}: expected a UTF-8 CSV with the column path, and optionally camera, a "
            f"number from 1 ({error!r})."
        ) from error
    lost = [name for name in files if not Path(name).is_file()]
    if lost or not files:
        raise InputError(
            f"images={path}: {len(lost)} of {len(files)} files are missing {lost[:3]}."
        )
    return files, cameras or None


if __name__ == "__main__":
    main()
