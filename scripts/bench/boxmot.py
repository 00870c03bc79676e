"""Cosine of the features that boxmot gives of exported files to those of `FeatureExtractor`.

boxmot is AGPL-3.0 and no dependency: it runs in an environment of its own.

    python -m venv boxmot-env && boxmot-env/bin/pip install boxmot==25.0.0 onnxruntime
    python scripts/bench/boxmot.py --python boxmot-env/bin/python

For each file: the least cosine over crops in the size of the model (batches of 1, 2, 14 and 33),
and over crops of other sizes, which boxmot resizes without antialiasing.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

BATCHES = (1, 2, 14, 33)
MODELS = {
    "resnet50_small": ("small", {}),
    "osnet_x0_25": ("osnet_x0_25", {"network__neck": "none"}),
}
MODELS |= {
    "resnet50_vit": ("vit_base", {"network__backbone": "vit_tiny_patch16_224"}),  # mean 0.5
    "resnet50_fc512": ("resnet50_fc512", {}),
}
INSIDE = """
import sys
from pathlib import Path
import numpy as np
from boxmot.reid.core.runtime import ReID
folder = Path(sys.argv[1])
for path in [*folder.glob("*.onnx"), *folder.glob("*.pt")]:
    model = ReID(path, device="cpu")
    parts = {}
    for kind in ("same", "other"):
        with np.load(folder / f"{kind}-{path.name.split('-')[0]}.npz") as file:
            crops = [file[f"arr_{i}"][..., ::-1].copy() for i in range(len(file.files))]
        batches = (1, 2, 14, 33)
        parts[kind] = np.concatenate([model(crops[:n]) for n in batches])
    np.savez(folder / f"{path.name}.npz", **parts)
"""


def crops(sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Crops (H, W, 3) uint8 RGB with edges and gradients."""
    random = np.random.default_rng(0)
    found = []
    for height, width in sizes:
        blocks = random.integers(0, 256, (12, 6, 3), np.uint8)
        smooth = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
        crop = np.array(smooth)
        top, left = random.integers(0, height // 2), random.integers(0, width // 2)
        crop[top : top + height // 4, left : left + width // 3] = random.integers(0, 256, 3)
        found.append(crop)
    return found


def export(folder: Path, name: str, stems: dict[str, np.ndarray]) -> None:
    """Write the files of a model, its crops, and the expected features to `stems`."""
    import torch

    from camreid import FeatureExtractor, create_model
    from camreid.checkpoints import boxmot, save
    from camreid.checkpoints.onnx import export_onnx
    from camreid.errors import InputError

    torch.manual_seed(0)
    model, options = MODELS[name]
    module = create_model(model, [2, 5, 7], network__pretrained=False, **options)
    module.train()
    with torch.no_grad():  # statistics of batch norms that are not 0 and 1
        for _ in range(3):
            module.model(
                torch.randint(0, 256, (8, 3, *module.config.image_size), dtype=torch.uint8)
            )
    module.eval()
    save(module, folder / f"{name}.ckpt")
    forms = {"fp32": {}, "fp16": {"precision": "float16"}, "b4": {"batch": 4}}
    if name != "resnet50_vit":
        forms["any"] = {"size": "dynamic", "precision": "float16"}
    for form, changes in forms.items():
        path = folder / f"{name}-{form}.onnx"
        print(path.name, export_onnx(module, path, "imagenet", **changes))
        boxmot.write_sidecar(module, path, str(folder / f"{name}.ckpt"))
    try:
        boxmot.write_pt(module, folder / f"{name}-pt.pt")
    except InputError as error:
        print(error)
    extract = FeatureExtractor(module, normalize=True)
    random = np.random.default_rng(1)
    sizes = [(int(h), int(h * 0.45)) for h in random.integers(40, 400, BATCHES[-1])]
    for kind, shapes in (("same", [module.config.image_size] * BATCHES[-1]), ("other", sizes)):
        own = crops(shapes)
        np.savez(folder / f"{kind}-{name}.npz", *own)
        features = extract(own).numpy()
        stems[f"{kind}-{name}"] = np.concatenate([features[:n] for n in BATCHES])


def main() -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="of the environment that has boxmot")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, expected = Path(name), {}
        for model in arguments.models:
            export(folder, model, expected)
        subprocess.run([arguments.python, "-c", INSIDE, folder], check=True)
        for path in sorted((*folder.glob("*.onnx.npz"), *folder.glob("*.pt.npz"))):
            with np.load(path) as file:
                wanted = {kind: expected[f"{kind}-{path.name.split('-')[0]}"] for kind in file}
                cosines = {k: float((file[k] * wanted[k]).sum(1).min()) for k in file}
            found[path.name.removesuffix(".npz")] = cosines
            print(f"{path.stem:32} same size {cosines['same']:.6f}, others {cosines['other']:.6f}")
    return found


if __name__ == "__main__":
    least = min(cosines["same"] for cosines in main().values())
    sys.exit(None if least >= 0.9999 else f"cosine {least:.6f} is below 0.9999")
