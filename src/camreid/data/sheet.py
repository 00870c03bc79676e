"""A contact sheet of a dataset."""

from collections import defaultdict
from collections.abc import Sequence

from PIL import Image, ImageDraw

from camreid.data.dataset import read_image
from camreid.data.records import ImageRecord, identities

_WIDE, _HIGH = 64, 144  # of a cell: an image of 64 x 128, and its label


def contact_sheet(records: Sequence[ImageRecord], count: int) -> Image.Image:
    """An image of `count` identities (rows) by each camera (columns).

    Its label is pid, camera and number of images. ImageError where it cannot be read.
    """
    cells: dict[tuple[int, int], list[str]] = defaultdict(list)
    for r in records:
        cells[r.pid, r.camera].append(r.path)
    pids, cameras = identities(records)[:count], sorted({camera for _, camera in cells})
    sheet = Image.new("RGB", (_WIDE * len(cameras), _HIGH * len(pids)), "white")
    for (pid, camera), paths in cells.items():
        if pid in pids:
            x, y = _WIDE * cameras.index(camera), _HIGH * pids.index(pid)
            pixels = read_image(min(paths), (128, _WIDE)).permute(1, 2, 0)
            sheet.paste(Image.fromarray(pixels.numpy()), (x, y))
            text = f"{pid} c{camera} {len(paths)}"
            ImageDraw.Draw(sheet).text((x + 2, y + 130), text, "black")
    return sheet
