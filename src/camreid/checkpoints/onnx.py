"""ONNX files from raw pixels to features, compared with PyTorch by onnxruntime."""

import copy
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camreid import __version__
from camreid.errors import InputError
from camreid.files import write_whole
from camreid.models.evaluating import forward_raw
from camreid.training.module import ReIDModule

Input = Literal["uint8", "float"]
OPSET = 18  # of what the exporter writes without converting, the one that most runtimes read
_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_PROBED = (1, 5)  # batch sizes; the graph is traced with another
_MOST_BYTES = 2**31 - 2**20  # a protobuf message ends at 2 GiB
TOLERANCE = 1e-3  # of the largest value; float32 sums in another order differ by about 1e-6


@dataclass(frozen=True)
class Parity:
    """How far onnxruntime is from PyTorch on the same random raw pixels.

    Attributes:
        output: its name in the file.
        batch: number of images.
        difference: the largest one, absolute.
        relative: that, divided by the largest absolute value.
        cosine: the least among the images.
    """

    output: str
    batch: int
    difference: float
    relative: float
    cosine: float

    @classmethod
    def of(cls, output: str, expected: Tensor, found: Tensor) -> "Parity":
        """Compare two (B, D) tensors.

        >>> Parity.of("features", torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.5]])).relative
        0.125
        """
        difference = (found - expected).abs().max().item()
        largest = expected.abs().max().item()
        relative = difference / largest if largest else difference
        cosine = F.cosine_similarity(expected, found).min().item()
        return cls(output, len(expected), difference, relative, cosine)


class RawNetwork(nn.Module):
    """A network as the file has it: raw pixels to features and maybe logits; see `export_onnx`."""

    def __init__(self, module: ReIDModule, normalize: bool, logits: bool) -> None:
        super().__init__()
        self.network = copy.deepcopy(module.model).float().cpu()
        self.normalize = normalize
        self.heads = tuple(module.model.heads) if logits else ()
        self.outputs = ("features", *(f"logits_{name}" for name in self.heads))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, D) features and (B, rows) logits of (B, 3, H, W) raw images."""
        output = forward_raw(self.network, images)
        features = F.normalize(output.features) if self.normalize else output.features
        return features, *(output.logits[name] for name in self.heads)


def export_onnx(
    module: ReIDModule,
    path: str | Path,
    input: Input = "uint8",
    normalize: bool = False,
    logits: bool = False,
    notes: Mapping[str, str] | None = None,
) -> tuple[Parity, ...]:
    """Write a module as an ONNX file, checked against PyTorch by onnxruntime.

    The file takes `images` (N, 3, H, W), RGB in 0..255, of any N, and gives `features` (N, D); the
    pixels are normalised inside. Its metadata hold the identities of the rows and how to prepare
    images. A model with camera options treats every image as of an unknown camera.

    Args:
        module: left as it is.
        path: the file, `.onnx`; written whole or not at all.
        input: the type of `images`, `uint8` or `float` (float32, 0..255 as well).
        normalize: L2-normalise the features in the file.
        logits: also give `logits_NAME` (N, rows) of each head.
        notes: more metadata, such as the checkpoint's path.

    Returns:
        Features, then logits, for a batch of 1; the same for a larger batch.

    Raises:
        InputError: no such option, a package that is not installed, a path that can't be written, a
            network that can't be exported, or one that differs by more than `TOLERANCE`.
    """
    path = Path(path)
    if input not in get_args(Input):
        raise InputError(f"input={input}: type input=uint8 or input=float, both in 0..255.")
    if logits and not len(module.labels):
        raise InputError("logits=true: the model has no rows; leave logits out.")
    _require_packages()
    _require_path(path)
    network = RawNetwork(module, normalize, logits)
    size = module.config.image_size
    with torch.inference_mode():  # the first images are checked, which can't be traced
        network(_pixels(1, size, input))
    proto = _trace(network, _pixels(2, size, input), module.config.name)
    _describe(proto, {**_metadata(module, normalize), **(notes or {})})
    batches = [_pixels(batch, size, input) for batch in _PROBED]
    parity: list[Parity] = []

    def write(draft: Path) -> None:
        draft.write_bytes(proto.SerializeToString())
        parity.extend(_compare(network, draft, batches, module.config.name))

    try:
        write_whole(path, write)
    except OSError as error:
        raise InputError(f"path={path} can't be written ({error}).", path="model.onnx") from error
    return tuple(parity)


@torch.inference_mode()
def _compare(network: RawNetwork, path: Path, batches: Sequence[Tensor], name: str) -> list[Parity]:
    """The parity of a file for each batch and output; InputError beyond `TOLERANCE`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    parity = []
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found = [session.run(list(network.outputs), {"images": b.numpy()}) for b in batches]
    except Exception as error:  # onnxruntime's own kinds have no other name in common
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"onnxruntime {onnxruntime.__version__} can't run what PyTorch {torch.__version__} "
            f"exported ({reason}); nothing was written. Try other versions of torch, onnxscript "
            "and onnxruntime."
        ) from error
    for images, values in zip(batches, found, strict=True):
        for output, ours, theirs in zip(network.outputs, network(images), values, strict=True):
            parity.append(Parity.of(output, ours, torch.from_numpy(theirs)))
            if not parity[-1].relative <= TOLERANCE:  # NaN is refused, too
                raise InputError(
                    f"{output} of {name} differ between PyTorch and onnxruntime by "
                    f"{parity[-1].relative:.1e} of the largest value (batch of {len(images)}), and "
                    f"{TOLERANCE:.0e} is the most that passes; nothing was written. Check the "
                    "weights for NaN, and try other versions of torch, onnxscript and onnxruntime."
                )
    return parity


def _pixels(batch: int, size: tuple[int, int], input: Input) -> Tensor:
    random = torch.Generator().manual_seed(batch)
    images = torch.randint(0, 256, (batch, 3, *size), generator=random, dtype=torch.uint8)
    return images if input == "uint8" else images.float()


def _trace(network: RawNetwork, images: Tensor, name: str) -> Any:
    """The graph as an `onnx.ModelProto`."""
    weights = sum(t.nbytes for t in network.state_dict().values())
    if weights > _MOST_BYTES:
        raise InputError(
            f"{name} has {weights / 2**30:.1f} GiB of weights, and an ONNX file of one piece holds "
            "2 GiB. Export a smaller model."
        )
    try:
        with redirect_stdout(io.StringIO()):  # onnxscript counts its rewrites there
            program = torch.onnx.export(
                network,
                (images,),
                input_names=["images"],
                output_names=list(network.outputs),
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, ImportError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise InputError(
            f"PyTorch {torch.__version__} can't export {name} to ONNX ({reason}). Type pip install "
            "--upgrade onnx onnxscript; a network of your own needs operations that torch.export "
            "takes."
        ) from error
    assert program is not None
    return program.model_proto


def _describe(proto: Any, metadata: Mapping[str, str]) -> None:
    """Write the metadata; remove source lines and local paths that the exporter keeps."""
    graph = proto.graph
    parts = (graph.node, graph.value_info, graph.input, graph.output, graph.initializer)
    for part in (graph, *(one for several in parts for one in several)):
        part.ClearField("metadata_props")
    proto.producer_name, proto.producer_version = "camreid", __version__
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)


def _metadata(module: ReIDModule, normalize: bool) -> dict[str, str]:
    """What a program needs to use the file; numbers, lists and booleans as JSON."""
    cameras = {}
    if module.model.cameras:  # the file has no input for them
        cameras["cameras"] = json.dumps(list(module.model.cameras))
        cameras["camera_of_images"] = "unknown: every image is treated as of an untrained camera"
    by_camera = {f"c{camera}": own.pids for camera, own in module.camera_labels.items()}
    return {
        "camreid_version": __version__,
        "model": module.config.name,
        "pids": json.dumps(by_camera or module.labels.pids),  # in row order
        "anonymous": json.dumps(module.labels.is_anonymous),
        "image_size": json.dumps(list(module.config.image_size)),
        "channels": "RGB",
        "pixels": "0..255, normalised inside",
        "resize": f"{module.config.interpolation}, antialiased",
        "features_normalized": json.dumps(normalize),
        **cameras,
    }


def _require_packages() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX files need {', '.join(_NEEDED)}, and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed. Type pip install "
            "'camreid[onnx]', or pip install '.[onnx]' in a checkout."
        )


def _require_path(path: Path) -> None:
    if path.suffix != ".onnx" or path.is_dir():
        raise InputError(
            f"path={path}: expected a file that ends in .onnx, such as path=model.onnx."
        )
    above = next(p for p in path.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        reason = "is not writable" if above.is_dir() else "is a file"
        raise InputError(
            f"path={path} can't be written: {above} {reason}. Type path=FILE.onnx in a folder that "
            "can be written."
        )
