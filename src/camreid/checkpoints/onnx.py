"""ONNX files from pixels to features, compared with PyTorch by onnxruntime."""

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from camreid import __version__
from camreid.checkpoints.graph import PLAIN, GraphOptions, RawNetwork
from camreid.errors import InputError, require_choice
from camreid.exported import LEAST_COSINE, RANGES, Input, expect, feed
from camreid.files import write_whole
from camreid.training.module import ReIDModule

OPSET = 18  # of what the exporter writes without converting, the one that most runtimes read
TOLERANCE = 1e-3  # of the largest value; float32 sums in another order differ by about 1e-6


def export_onnx(
    module: ReIDModule,
    path: str | Path,
    input: Input = "uint8",
    normalize: bool = False,
    logits: bool = False,
    notes: Mapping[str, str] | None = None,
    options: GraphOptions = PLAIN,
) -> dict[str, float]:
    """Write a module as an ONNX file, whole or not at all, checked against PyTorch by onnxruntime.

    The file takes (N, 3, H, W): `uint8`, or float32 as `float` in 0..255, `unit` in 0..1, or
    `imagenet`, (x / 255 - mean) / std. It normalises pixels, and gives `features` (N, D) float32,
    L2-normalised with `normalize`, and with `logits` also `logits_NAME` (N, rows) of each head. Its
    metadata hold the identities of the rows, how to prepare images, a test crop with its features,
    and `notes`. A model with camera options treats every image as of an unknown camera.

    Returns the largest difference from PyTorch by output, as a share of the largest value.
    InputError for an impossible option, a missing package, a path that can't be written, or a
    network that can't be exported or differs by more than `TOLERANCE`; in float16, by a cosine
    below 0.9999.
    """
    path = Path(path)
    require_choice("input", input, Input)
    if logits and not len(module.labels):
        raise InputError("logits=true: the model has no rows.", logits=False)
    if path.suffix != ".onnx":
        raise InputError(f"path={path}: expected a file that ends in .onnx.", path="model.onnx")
    raw = RawNetwork(module, normalize, logits)
    try:
        for package in ("onnx", "onnxruntime", "onnxscript"):
            import_module(package)
        graph = RawNetwork(module, normalize, logits, input, options)
        proto = _trace(graph)
        metadata = {**_metadata(module, graph), **expect(raw.test_features())}
        _describe(proto, {**metadata, **(notes or {})})
        content = proto.SerializeToString()
        parity = _check(raw, content, input, options)
        write_whole(path, lambda draft: draft.write_bytes(content))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"path={path} can't be written ({error}).", path="model.onnx") from error
    except Exception as error:  # of torch.onnx, protobuf or onnxruntime, without a common class
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise InputError(
            f"PyTorch {torch.__version__} can't export {module.config.name} to ONNX ({reason}). "
            "Try pip install -U 'camreid[onnx]'. A file holds at most 2 GiB. A custom network may "
            "use only operations that torch.export supports.",
            **({"size": "static"} if options.size == "dynamic" else {}),
        ) from error
    return parity


@torch.inference_mode()
def _check(raw: RawNetwork, file: bytes, input: Input, options: GraphOptions) -> dict[str, float]:
    """By output, the largest difference of a file as a share of the largest value."""
    runtime = import_module("onnxruntime")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3  # errors alone
    session = runtime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    parity, random = dict.fromkeys(raw.outputs, 0.0), np.random.default_rng(0)
    is_half = options.precision == "float16"
    batches = [1, 5] if options.batch == "dynamic" else [options.batch]
    shapes = [(batch, *raw.image_size) for batch in batches]
    if options.size == "dynamic":
        shapes += [(batches[0], raw.image_size[0] + 32, raw.image_size[1] + 16)]
    for shape in shapes:
        crops = random.integers(0, 256, (*shape, 3), np.uint8)
        fed = {options.input_name: feed(crops, input, options.channels)}
        found = map(torch.from_numpy, session.run([*parity], fed))
        outputs = raw(torch.from_numpy(feed(crops)))
        for output, expected, given in zip(parity, outputs, found, strict=True):
            largest = expected.abs().max().clamp(min=1e-12)
            share = ((given - expected).abs().max() / largest).item()
            cosine = F.cosine_similarity(given, expected).min()
            if not (cosine >= LEAST_COSINE if is_half else share <= TOLERANCE):  # NaN is refused
                limit = f"cosine {LEAST_COSINE}" if is_half else f"{TOLERANCE:.0e}"
                raise InputError(
                    f"{output} differ between PyTorch and onnxruntime by {share:.1e} of the "
                    f"largest value, cosine {cosine:.6f}; the limit is {limit}, so nothing was "
                    "written. Check the weights for NaN."
                )
            parity[output] = max(share, parity[output])
    return parity


def _trace(graph: RawNetwork) -> Any:
    """The graph as an `onnx.ModelProto`."""
    options, batch = graph.options, 2 if graph.options.batch == "dynamic" else graph.options.batch
    axes = {0: "batch"} if options.batch == "dynamic" else {}
    axes |= {2: "height", 3: "width"} if options.size == "dynamic" else {}
    kind = torch.uint8 if graph.input == "uint8" else torch.float32
    with redirect_stdout(io.StringIO()):  # onnxscript counts its rewrites there
        program = torch.onnx.export(
            graph,
            (torch.zeros(batch, 3, *graph.image_size, dtype=kind),),
            input_names=[options.input_name],
            output_names=list(graph.outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes={
                "images": {k: torch.export.Dim(v, min=16 if k else 1) for k, v in axes.items()}
            },
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _describe(proto: Any, metadata: Mapping[str, str]) -> None:
    """Write the metadata; remove source lines and local paths that the exporter keeps."""
    graph = proto.graph
    parts = (graph.node, graph.value_info, graph.input, graph.output, graph.initializer)
    for part in (graph, *(one for several in parts for one in several)):
        part.ClearField("metadata_props")
    proto.producer_name, proto.producer_version = "camreid", __version__
    graph.input[0].doc_string = f"{metadata['channels']}, {metadata['pixels']}"
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)


def _metadata(module: ReIDModule, graph: RawNetwork) -> dict[str, str]:
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
        "input": graph.input,
        "channels": graph.options.channels.upper(),
        "pixels": f"{RANGES[graph.input]}, normalised inside",
        "precision": graph.options.precision,
        "resize": f"{module.config.interpolation}, antialiased",
        "features_normalized": json.dumps(graph.normalize),
        **cameras,
    }
