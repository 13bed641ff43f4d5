"""The networks of diarization as files: checkpoints read and exported, features, and networks of one's own."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from wyoming_wlk.catalogue import DIARIZATION
from wyoming_wlk.errors import ModelError
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.diarization.export import _lstm, export_networks
from wyoming_wlk.stages.diarization.features import filter_bank
from wyoming_wlk.stages.diarization.graph import Graph
from wyoming_wlk.stages.diarization.install import install_networks
from wyoming_wlk.stages.diarization.networks import (
    FRAME,
    FRAME_START,
    POWERSET,
    WINDOW,
    WINDOW_FRAMES,
    EmbeddingNetwork,
    SegmentationNetwork,
)
from wyoming_wlk.stages.diarization.pieces import most_likely
from wyoming_wlk.stages.diarization.weights import read_state_dict

RATE = 16000


@pytest.fixture(scope="session")
def networks(store: ModelStore) -> tuple[Path, Path]:
    return install_networks(store)


# --- the published networks -------------------------------------------------------------------------------------------


def test_filter_bank() -> None:
    """Against the definition, bin by bin; an offset changes nothing, and what is too short is empty."""
    samples = np.random.default_rng(2).standard_normal(1000).astype(np.float32) * 0.1
    found = filter_bank(samples)
    assert found.shape == (4, 80) and filter_bank(samples[:399]).shape == (0, 80)
    frame = samples[160:560].astype(np.float64)
    frame = frame - frame.mean()
    frame = np.array([frame[0] * 0.03] + [frame[i] - 0.97 * frame[i - 1] for i in range(1, 400)])
    window = [(0.5 - 0.5 * np.cos(2 * np.pi * i / 399)) ** 0.85 for i in range(400)]
    power = np.abs(np.fft.rfft(frame * window, 512)) ** 2
    mels = 1127 * np.log(1 + np.arange(257) * RATE / 512 / 700)
    low, high = 1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700)
    width = (high - low) / 81
    for number in (0, 1, 40, 79):
        centre = low + width * (number + 1)
        energy = sum(power[i] * max(0, 1 - abs(mels[i] - centre) / width) for i in range(256))
        assert found[1, number] == pytest.approx(np.log(energy), abs=2e-3)
    assert filter_bank(samples + 0.5) == pytest.approx(found, abs=2e-2)


def test_checkpoints_are_read_without_torch(store: ModelStore) -> None:
    """The same tensors as torch reads."""
    path = store.fetch(DIARIZATION) / "segmentation.pt"
    expected = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    found = read_state_dict(path, "state_dict")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name].numpy()) for name in found)


def test_checkpoints_run_nothing(tmp_path: Path) -> None:
    """A pickle that names anything but tensors is refused, and so is what is no checkpoint."""
    for number, content in enumerate((pickle.dumps(Path), b"no pickle", pickle.dumps([1]))):
        path = tmp_path / f"{number}.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
        with pytest.raises(ModelError):
            read_state_dict(path)
    (tmp_path / "plain.pt").write_bytes(b"nothing")
    with pytest.raises(ModelError):
        read_state_dict(tmp_path / "plain.pt")


def test_lstm_as_in_torch(tmp_path: Path) -> None:
    """The graph's recurrent layer with torch's weights gives what torch gives."""
    layer = torch.nn.LSTM(5, 4, bidirectional=True)
    weights = {f"lstm.{name}": value.detach().numpy() for name, value in layer.named_parameters()}
    graph = Graph("test")
    graph.output("y", _lstm(graph, graph.input("x", ("frames", "batch", 5)), weights, 0), ("frames", "batch", 8))
    (tmp_path / "lstm.onnx").write_bytes(graph.to_bytes())
    session = onnxruntime.InferenceSession(str(tmp_path / "lstm.onnx"), providers=["CPUExecutionProvider"])
    values = np.random.default_rng(3).standard_normal((7, 2, 5)).astype(np.float32)
    (found,) = session.run(None, {"x": values})
    assert found == pytest.approx(layer(torch.from_numpy(values))[0].detach().numpy(), abs=1e-6)


def test_export_is_done_once(networks: tuple[Path, Path], tmp_path: Path) -> None:
    """Files that are there are taken; checkpoints of something else are refused and leave nothing behind."""
    before = [path.stat().st_mtime_ns for path in networks]
    assert export_networks(networks[0].parent) == networks
    assert [path.stat().st_mtime_ns for path in networks] == before
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "segmentation.pt")
    with pytest.raises(ModelError):
        export_networks(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["segmentation.pt"]
    with pytest.raises(ModelError, match="cannot load"):
        SegmentationNetwork(tmp_path / "segmentation.pt")


def test_models_that_are_missing(tmp_path: Path) -> None:
    """Offline and without the models one is told what to do."""
    with pytest.raises(ModelError, match="offline.*start once with the internet.*models/diarization"):
        install_networks(ModelStore(tmp_path, offline=True))


# --- networks of one's own --------------------------------------------------------------------------------------------


def segmentation_graph(path: Path, shape: tuple[int | str, ...], hop: int, classes: int = 7) -> Path:
    """A network with frames of its own: the louder, the higher the class; silence is class 0."""
    graph = Graph("segmentation")
    value = graph.input("sound", shape)
    if len(shape) == 2:
        value = graph.add("Unsqueeze", value, graph.constant([1]))
    value = graph.add("Abs", value)
    value = graph.add("AveragePool", value, attributes={"kernel_shape": [hop], "strides": [hop]})
    value = graph.add("Transpose", value, attributes={"perm": [0, 2, 1]})
    steps = np.arange(classes)  # of a mean of about 0.1 * n the class n
    value = graph.add("Mul", value, graph.constant(20.0 * steps[None]))
    value = graph.add("Sub", value, graph.constant((steps**2)[None].astype(np.float32)))
    graph.output("who", value, ("batch", "frames", classes))
    path.write_bytes(graph.to_bytes())
    return path


def embedding_graph(path: Path, bins: int = 80, size: int = 5, pooled: bool = True) -> Path:
    """A network that makes `size` sums of the features' mean."""
    graph = Graph("embedding")
    weights = graph.constant(np.eye(bins, size))
    value = graph.add("MatMul", graph.input("fbank", ("batch", "time", bins)), weights)
    if pooled:
        value = graph.add("ReduceMean", value, attributes={"axes": [1], "keepdims": 0})
    graph.output("voice", value, ("batch", size) if pooled else ("batch", "time", size))
    path.write_bytes(graph.to_bytes())
    return path


@pytest.mark.parametrize("shape", [("batch", 1, "samples"), ("batch", "samples")])
@pytest.mark.parametrize("hop", [160, 270, 320, 1600])
def test_other_segmentation(tmp_path: Path, shape: tuple[int | str, ...], hop: int) -> None:
    """Frames of another length are brought to ours, at the same times."""
    network = SegmentationNetwork(segmentation_graph(tmp_path / "s.onnx", shape, hop))
    audio = np.zeros(WINDOW * FRAME, np.float32)
    start, end = 2 * RATE, 5 * RATE
    audio[start:end] = 0.4  # the class of speakers 0 and 1 at once
    (window,) = network.run([audio])
    assert window.shape == (WINDOW_FRAMES, len(POWERSET)) and window.sum(axis=1) == pytest.approx(1)
    activity = most_likely(window)
    assert not activity[:, 2].any()
    assert (activity[:, 0] != activity[:, 1]).sum() <= 2  # a frame of both silence and speech
    frames = np.flatnonzero(activity.any(axis=1))
    assert abs(frames[0] * FRAME + FRAME_START - start) <= hop + FRAME
    assert abs((frames[-1] + 1) * FRAME + FRAME_START - end) <= hop + FRAME


def test_published_segmentation_keeps_its_frames(networks: tuple[Path, Path]) -> None:
    """segmentation-3.0 is taken as it is, frame by frame."""
    assert np.array_equal(SegmentationNetwork(networks[0])._places, np.arange(WINDOW_FRAMES))


def test_other_embedding(tmp_path: Path) -> None:
    """An embedding of another size works, and networks have names of their own."""
    network = EmbeddingNetwork(embedding_graph(tmp_path / "5.onnx"))
    (embedding,) = network.run([np.random.default_rng(0).standard_normal((40, 80)).astype(np.float32)])
    assert embedding.shape == (5,) == (network.dimensions,)
    assert network.name != EmbeddingNetwork(embedding_graph(tmp_path / "6.onnx", size=6)).name


def test_networks_that_do_not_fit(tmp_path: Path, networks: tuple[Path, Path]) -> None:
    """Another kind of network is refused at once, with its name and what is wrong."""
    four = segmentation_graph(tmp_path / "four.onnx", ("batch", 1, "samples"), 270, classes=4)
    fixed = segmentation_graph(tmp_path / "fixed.onnx", ("batch", 1, 160000), 270)
    slow = segmentation_graph(tmp_path / "slow.onnx", ("batch", 1, "samples"), 100000, classes=7)
    mel40 = embedding_graph(tmp_path / "mel40.onnx", bins=40)
    frames = embedding_graph(tmp_path / "frames.onnx", pooled=False)
    for path, why in ((four, "7 classes"), (fixed, "an input of"), (networks[1], "7 classes|an input of")):
        with pytest.raises(ModelError, match=f"{path} cannot be used for diarization: it does not .*({why})"):
            SegmentationNetwork(path)
    for path, why in ((mel40, "an input of"), (frames, "one embedding"), (four, "one embedding|an input of")):
        with pytest.raises(ModelError, match=f"{path} cannot be used for diarization: it does not .*({why})"):
            EmbeddingNetwork(path)
    raw = segmentation_graph(tmp_path / "raw.onnx", ("batch", "samples"), 270)
    with pytest.raises(ModelError, match="80 mel bins"):
        EmbeddingNetwork(raw)
    assert SegmentationNetwork(slow)
