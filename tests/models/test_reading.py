"""Files of weights: what is read without running code, and what is called by its name."""

import argparse
import pathlib
import random
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from camreid.errors import InputError
from camreid.models.reading import read_content, read_states

STATE = {"conv1.weight": torch.arange(6.0).view(2, 3)}


@pytest.mark.parametrize("is_zip", [True, False])
def test_options_paths_and_arrays_beside_the_weights_are_inert(
    is_zip: bool, tmp_path: Path
) -> None:
    beside = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.PosixPath("/x"), sizes=np.arange(3)),
        "path": pathlib.PurePosixPath("a/b"),
        "scores": np.ones((2, 2)),
        "names": np.array(["a", "b"]),
        "mixed": np.array([None, "b"], dtype=object),
        "best": np.float64(0.9),
    }
    path = tmp_path / "c.pth"
    content = {**beside, "teacher": STATE}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    read = read_content(path)
    assert torch.equal(read["teacher"]["conv1.weight"], STATE["conv1.weight"])
    assert not any(isinstance(read[k], type(beside[k])) for k in ("args", "path", "scores"))
    assert read["best"] == 0.9
    assert read_states(path).keys() == {"teacher"}


def test_safetensors_are_read_whatever_their_name(tmp_path: Path) -> None:
    save_file({"module.conv1.weight": STATE["conv1.weight"]}, tmp_path / "w.pth")
    assert torch.equal(read_states(tmp_path / "w.pth")[""]["conv1.weight"], STATE["conv1.weight"])


@pytest.mark.parametrize(
    ("content", "containers"),
    [
        ({"student": STATE, "teacher": STATE, "epoch": 3}, ["teacher", "student"]),
        ({"state_dict": STATE, "state_dict_ema": STATE}, ["state_dict_ema", "state_dict"]),
        ({"net": {"model": STATE}}, ["net.model"]),
        ({"state_dict": STATE, "ema_state_dict": STATE}, ["ema_state_dict", "state_dict"]),
        ({"state_dict": STATE, "swa": STATE}, ["swa", "state_dict"]),
        ({"encoder": STATE, "target_encoder": STATE}, ["target_encoder", "encoder"]),
        ({"optimizer": {"state": {0: STATE}}, "encoder": STATE}, ["encoder"]),
        ({"weights_v2": STATE, "ema": {"module": STATE}}, ["ema.module", "weights_v2"]),
        (STATE, [""]),
    ],
)
def test_containers_are_found_averages_first(
    content: object, containers: list[str], tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert list(read_states(tmp_path / "w.pth")) == containers


def _torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


KINDS: dict[str, tuple[object, str]] = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
    "html": (b"\n<!DOCTYPE html><html><title>Quota exceeded</title>", "web page"),
    "last_checkpoint": (b"model_final.pth", r"names another file\. Give .*model_final\.pth"),
    "log.txt": (b"epoch 1 loss 3", "text that begins with 'epoch 1 loss 3'"),
    "m.onnx": (b"\x08\x0a\x12\x07pytorch\x1a\x032.9", "ONNX model"),
    "data.pkl": (b"\x80\x02}q\x00.", r"part of an unpacked .* zip -0 -r"),
    "m.pkl": (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.", "plain pickle"),
    "empty": (b"", "its 0 bytes"),
    "ViT-B-16.pt": (_torchscript, r"TorchScript archive.*torch\.jit\.load"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")  # which made OpenAI's files
@pytest.mark.parametrize("name", KINDS)
def test_other_files_are_called_by_their_name(name: str, tmp_path: Path) -> None:
    content, message = KINDS[name]
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif callable(content):
        content(path)
    with pytest.raises(InputError, match=message) as caught:
        read_states(path, "weights")
    assert "\n" not in str(caught.value)


def test_an_unpacked_file_can_be_packed_again(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        archive.extractall(tmp_path)
    for path in (tmp_path / "w", tmp_path / "w" / "data.pkl"):
        with pytest.raises(InputError) as caught:
            read_states(path)
        command = re.search(r"cd (\S+) && zip -0 -r (\S+) (\S+)", str(caught.value))
        assert command
        assert command.groups() == (str(tmp_path), "w.pth", "w")


def test_tensors_that_are_not_dense_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2).to_sparse()}}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="no dense tensors"):
        read_states(tmp_path / "w.pth")


def test_a_flipped_bit_changes_nothing_or_is_refused(tmp_path: Path) -> None:
    path, chance, refused = tmp_path / "c.ckpt", random.Random(0), 0
    content = {"state_dict": {"w": torch.randn(400), "b": torch.ones(3)}, "epoch": 3, "text": "ab"}
    torch.save(content, path)
    whole = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            read = read_content(path)
        except InputError:
            refused += 1
            continue
        assert read.keys() == content.keys()
        assert (read["epoch"], read["text"]) == (3, "ab")
        for name, value in content["state_dict"].items():
            assert torch.equal(read["state_dict"][name], value)
    assert refused > 150


def test_a_small_file_with_large_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(10**6)}, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as archive,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with pytest.raises(InputError, match="can't be read"):
        read_content(tmp_path / "bomb.pth")
