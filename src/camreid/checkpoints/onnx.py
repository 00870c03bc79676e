"""ONNX files from raw pixels to features, compared with PyTorch by onnxruntime."""

import copy
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camreid import __version__
from camreid.errors import InputError, require_choice
from camreid.files import write_whole
from camreid.training.module import ReIDModule

Input = Literal["uint8", "float"]
OPSET = 18  # of what the exporter writes without converting, the one that most runtimes read
TOLERANCE = 1e-3  # of the largest value; float32 sums in another order differ by about 1e-6


class _RawNetwork(nn.Module):
    """A network from raw pixels to a tuple of its outputs; `outputs` are their names."""

    def __init__(self, module: ReIDModule, normalize: bool, logits: bool) -> None:
        super().__init__()
        self.network = copy.deepcopy(module.model).float().cpu()
        self.normalize = normalize
        self.heads = tuple(module.model.heads) if logits else ()
        self.outputs = ("features", *(f"logits_{name}" for name in self.heads))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        output = self.network.forward_raw(images)
        features = F.normalize(output.features) if self.normalize else output.features
        return features, *(output.logits[name] for name in self.heads)


def export_onnx(
    module: ReIDModule,
    path: str | Path,
    input: Input = "uint8",
    normalize: bool = False,
    logits: bool = False,
    notes: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Write a module as an ONNX file, whole or not at all, checked against PyTorch by onnxruntime.

    The file takes `images` (N, 3, H, W), RGB in 0..255, uint8 or `float` (float32), of any N. It
    normalises pixels, and gives `features` (N, D), L2-normalised with `normalize`, and with
    `logits` also `logits_NAME` (N, rows) of each head. Its metadata hold the identities of the rows
    and how to prepare images, and `notes`. A model with camera options treats every image as of an
    unknown camera.

    Returns the largest difference from PyTorch by output, as a share of the largest value.
    InputError for an impossible option, a missing package, a path that can't be written, or a
    network that can't be exported or differs by more than `TOLERANCE`.
    """
    path = Path(path)
    require_choice("input", input, Input)
    if logits and not len(module.labels):
        raise InputError("logits=true: the model has no rows.", logits=False)
    if path.suffix != ".onnx":
        raise InputError(f"path={path}: expected a file that ends in .onnx.", path="model.onnx")
    network = _RawNetwork(module, normalize, logits)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5, 3, *module.config.image_size), generator=random)
    images = pixels.to(torch.uint8 if input == "uint8" else torch.float32)
    try:
        for package in ("onnx", "onnxruntime", "onnxscript"):
            import_module(package)
        proto = _trace(network, images[:2])
        _describe(proto, {**_metadata(module, normalize), **(notes or {})})
        digest = hashlib.sha256(proto.SerializeToString()).hexdigest()
        proto.metadata_props.add(key="digest", value=digest)
        content = proto.SerializeToString()
        parity = _check(network, content, (images[:1], images))
        write_whole(path, lambda draft: draft.write_bytes(content))
    except InputError:
        raise
    except Exception as error:  # of torch.onnx, protobuf or onnxruntime, without a common class
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise InputError(
            f"PyTorch {torch.__version__} can't export {module.config.name} to ONNX ({reason}). "
            "Try pip install -U 'camreid[onnx]'. A file holds at most 2 GiB. A custom network may "
            "use only operations that torch.export supports."
        ) from error
    return parity


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a file of `export_onnx`; InputError if any part of the file has changed."""
    try:
        proto = import_module("onnx").load_model(path, load_external_data=False)
        digest = proto.metadata_props.pop()
        found = hashlib.sha256(proto.SerializeToString()).hexdigest()
    except Exception as error:  # of protobuf
        raise InputError(f"{path} cannot be read as ONNX ({error}).") from error
    if (digest.key, digest.value) != ("digest", found):
        raise InputError(f"{path} has a wrong checksum or none. Copy or export the file again.")
    return {prop.key: prop.value for prop in proto.metadata_props}


@torch.inference_mode()
def _check(network: _RawNetwork, file: bytes, batches: Iterable[Tensor]) -> dict[str, float]:
    """By output, the largest difference of a file as a share of the largest value."""
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    parity = dict.fromkeys(network.outputs, 0.0)
    for images in batches:
        found = map(torch.from_numpy, session.run([*parity], {"images": images.numpy()}))
        for output, expected, given in zip(parity, network(images), found, strict=True):
            largest = expected.abs().max().clamp(min=1e-12)
            share = ((given - expected).abs().max() / largest).item()
            if not share <= TOLERANCE:  # NaN is refused, too
                raise InputError(
                    f"{output} of PyTorch and onnxruntime differ by {share:.1e} of the largest "
                    f"value; the limit is {TOLERANCE:.0e}. Check the weights for NaN."
                )
            parity[output] = max(share, parity[output])
    return parity


def _trace(network: _RawNetwork, images: Tensor) -> Any:
    """The graph as an `onnx.ModelProto`."""
    with redirect_stdout(io.StringIO()):  # onnxscript counts its rewrites there
        names: Any = {"input_names": ["images"], "output_names": list(network.outputs)}
        options: Any = {"opset_version": OPSET, "dynamo": True, "verbose": False}
        shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
        program = torch.onnx.export(network, (images,), dynamic_shapes=shapes, **names, **options)
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
