"""ONNX files from pixels to features, compared with PyTorch by onnxruntime."""

import hashlib
import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid import __version__
from camreid.checkpoints.exported import Exported, read_metadata
from camreid.checkpoints.graph import PIXELS, Graph, GraphOptions, Input, compare, read_test
from camreid.errors import InputError
from camreid.files import write_whole
from camreid.training.module import ReIDModule

OPSET = 18  # of what the exporter writes without converting, the one that most runtimes read
_DIMS = ("batch", "channels", "height", "width")
# of the norm: sums of float32 in another order differ by about 1e-6; 0.014 is a cosine of 0.9999
TOLERANCE = {"float32": 1e-3, "float16": 1.4e-2}
# what float16 has too few digits for: norms, GeM, and what follows the pooling
_FLOAT32 = ["BatchNormalization", "InstanceNormalization", "LayerNormalization", "ReduceMean"]
_FLOAT32 += ["ReduceL2", "Pow", "Gemm"]


def export_onnx(
    module: ReIDModule,
    path: str | Path,
    input: Input = "uint8",
    normalize: bool = False,
    logits: bool = False,
    notes: Mapping[str, str] | None = None,
    **form: Any,
) -> dict[str, float]:
    """Write a module as an ONNX file, whole or not at all, checked against PyTorch by onnxruntime.

    The file takes (N, 3, H, W) images: `uint8`, or float32 as `float` in 0..255, `unit` in 0..1, or
    `imagenet`, (x / 255 - mean) / std; `form` has the other `GraphOptions`. It gives `features`
    (N, D), L2-normalised with `normalize`, and with `logits` also `logits_NAME` (N, rows) of each
    head. Its metadata hold identities, preprocessing, a test crop with its features, and `notes`. A
    model with camera options treats every image as of an unknown camera.

    Returns the largest difference from PyTorch by output, as a share of the norm. InputError for an
    impossible option, a missing package, a path that can't be written, or a network that can't be
    exported or differs by more than `TOLERANCE`.
    """
    path, options = Path(path), GraphOptions(input, normalize, logits, **form)
    if logits and not len(module.labels):
        raise InputError("logits=true: the model has no rows.", logits=False)
    if path.suffix != ".onnx":
        raise InputError(f"path={path}: expected a file that ends in .onnx.", path="model.onnx")
    try:
        import_module("onnxscript")
        graph = Graph(module, options)
        proto = _trace(graph)
        _describe(proto, {**_metadata(module, options), **graph.evidence(), **(notes or {})})
        digest = hashlib.sha256(proto.SerializeToString()).hexdigest()
        proto.metadata_props.add(key="digest", value=digest)
        content = proto.SerializeToString()
        parity = _check(graph, content)
        write_whole(path, lambda draft: draft.write_bytes(content))
    except InputError:
        raise
    except Exception as error:  # of torch.onnx, protobuf or onnxruntime, without a common class
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise InputError(
            f"PyTorch {torch.__version__} can't export {module.config.name} to ONNX ({reason}). "
            "Try pip install -U 'camreid[onnx]'. A file holds at most 2 GiB. A custom network may "
            "use only operations that torch.export supports.",
            **({"size": "static"} if options.size == "dynamic" else {}),
        ) from error
    return parity


def check_onnx(path: Path) -> float:
    """`compare` for the test crop of a file, by onnxruntime; InputError for a damaged file too."""
    metadata = read_metadata(path)
    try:
        crop, expected = read_test(metadata)
        network = Exported(path)
        features = network.forward_raw(crop).features.view_as(expected)
    except Exception as error:  # of onnxruntime, or a file without a test
        raise InputError(f"{path} gives no features of a test crop ({error!r:.300}).") from error
    return compare("features", features, expected, TOLERANCE[network.form.precision])


def _run(file: bytes, outputs: list[str], images: Tensor) -> list[Tensor]:
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    values = session.run(outputs, {session.get_inputs()[0].name: images.numpy()})
    return list(map(torch.from_numpy, values))


@torch.inference_mode()
def _check(graph: Graph, file: bytes) -> dict[str, float]:
    """By output, the largest difference of a file as a share of the norm."""
    options, (height, width) = graph.options, graph.config.image_size
    more = [0, 32] if options.size == "dynamic" else [0]
    batches = [1, 5] if options.batch == "dynamic" else [options.batch]
    parity, random = dict.fromkeys(graph.outputs, 0.0), torch.Generator().manual_seed(0)
    for shape in ((n, 3, height + k, width + k) for n in batches for k in more):
        blocks = torch.randint(0, 256, (*shape[:2], 16, 8), dtype=torch.uint8, generator=random)
        pixels = F.interpolate(blocks, shape[2:])  # noise has less to tell images apart by
        found = _run(file, [*parity], options.feed(pixels))
        for output, expected, given in zip(parity, graph.raw(pixels), found, strict=True):
            share = compare(output, given, expected, TOLERANCE[options.precision])
            parity[output] = max(share, parity[output])
    return parity


def _trace(graph: Graph) -> Any:
    """The graph as an `onnx.ModelProto`."""
    options = graph.options
    batch, free = (2, [0]) if options.batch == "dynamic" else (options.batch, [])
    free += [2, 3] if options.size == "dynamic" else []
    dims = {n: torch.export.Dim(_DIMS[n], min=16 if n else 1) for n in free}
    pixels = torch.zeros(batch, 3, *graph.config.image_size, dtype=torch.uint8)
    with redirect_stdout(io.StringIO()):  # onnxscript counts its rewrites there
        names = {"input_names": [PIXELS[options.input][0]], "output_names": list(graph.outputs)}
        how: Any = {"opset_version": OPSET, "dynamo": True, "verbose": False, **names}
        shapes = {"images": dims}
        program = torch.onnx.export(graph, (options.feed(pixels),), dynamic_shapes=shapes, **how)
    assert program is not None
    proto = program.model_proto
    if options.precision == "float16":
        proto.graph.ClearField("value_info")  # it would be taken for the type of all initialisers
        half = import_module("onnxruntime.transformers.onnx_model").OnnxModel(proto)
        half.convert_float_to_float16(use_symbolic_shape_infer=False, op_block_list=_FLOAT32)
        half.topological_sort()
        proto = half.model
    return proto


def _describe(proto: Any, metadata: Mapping[str, str]) -> None:
    """Write the metadata; remove source lines and local paths that the exporter keeps."""
    graph = proto.graph
    parts = (graph.node, graph.value_info, graph.input, graph.output, graph.initializer)
    for part in (graph, *(one for several in parts for one in several)):
        part.ClearField("metadata_props")
    proto.producer_name, proto.producer_version = "camreid", __version__
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)


def _metadata(module: ReIDModule, options: GraphOptions) -> dict[str, str]:
    """What a program needs to use the file; numbers, lists and booleans as JSON."""
    cameras = {}
    if module.model.cameras:  # the file has no input for them
        cameras["cameras"] = json.dumps(list(module.model.cameras))
        cameras["camera_of_images"] = "unknown: every image is treated as of an untrained camera"
    by_camera = {f"c{camera}": own.pids for camera, own in module.camera_labels.items()}
    resize = module.config.interpolation
    return {
        "camreid_version": __version__,
        "model": module.config.name,
        "pids": json.dumps(by_camera or module.labels.pids),  # in row order
        "anonymous": json.dumps(module.labels.is_anonymous),
        "image_size": json.dumps(list(module.config.image_size)),
        "form": json.dumps(asdict(options)),
        "channels": options.channels.upper(),
        "pixels": f"{PIXELS[options.input][1]}, normalised inside",
        "resize": f"{resize}, {'not ' * (resize == 'opencv')}antialiased",
        "features_normalized": json.dumps(options.normalize),
        **cameras,
    }
