"""The two networks of diarization as ONNX graphs, built from their published weights. Done once, at download.

Speaker segmentation: PyanNet as in pyannote/segmentation-3.0 (MIT, CNRS; arXiv 2310.13025), SincNet (arXiv 1808.00158)
and a bidirectional LSTM. Speaker embedding: CAM++ (Apache-2.0, Alibaba; arXiv 2303.00332).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wyoming_wlk.errors import ModelError
from wyoming_wlk.stages.diarization.graph import Graph
from wyoming_wlk.stages.diarization.weights import read_state_dict

VERSION = 1
"""Counts up when the graphs change, so that older files are not taken for them."""
SAMPLE_RATE = 16000
_EPSILON = 1e-5  # torch's, of batch and instance normalisation

Weights = dict[str, np.ndarray]


def export_networks(folder: Path) -> tuple[Path, Path]:
    """The ONNX files of segmentation and embedding, made of the checkpoints in `folder` where they are not there yet.

    Raises `ModelError` for checkpoints of other networks, and where nothing can be written.
    """
    segmentation = _export(folder / "segmentation.pt", "state_dict", _segmentation)
    return segmentation, _export(folder / "embedding.pt", None, _embedding)


def _export(checkpoint: Path, key: str | None, build: Callable[[Weights], bytes]) -> Path:
    target = checkpoint.with_name(f"{checkpoint.stem}-{VERSION}.onnx")
    if target.exists():
        return target
    try:
        model = build(read_state_dict(checkpoint, key))
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        with part.open("wb") as file:
            file.write(model)
            os.fsync(file.fileno())
        part.replace(target)
    except (KeyError, ValueError) as err:
        raise ModelError(f"{checkpoint} is not the network it should be: {err}") from err
    except OSError as err:
        raise ModelError(f"cannot write {target}: {err}") from err
    return target


# --- segmentation -----------------------------------------------------------------------------------------------------


def _segmentation(weights: Weights) -> bytes:
    """audio [batch, 1, samples] -> scores [batch, frames, 7], log probabilities of the powerset's classes."""
    graph = Graph("segmentation")
    value = graph.input("audio", ("batch", 1, "samples"))
    value = _instance_norm(graph, value, weights, "sincnet.wav_norm1d")
    filters = graph.constant(_sinc_filters(weights))
    value = graph.add("Conv", value, filters, attributes={"strides": [10]})
    value = graph.add("Abs", value)
    for layer in range(3):
        if layer:
            name = f"sincnet.conv1d.{layer}"
            kernel, bias = graph.constant(weights[f"{name}.weight"]), graph.constant(weights[f"{name}.bias"])
            value = graph.add("Conv", value, kernel, bias)
        value = graph.add("MaxPool", value, attributes={"kernel_shape": [3], "strides": [3]})
        value = _instance_norm(graph, value, weights, f"sincnet.norm1d.{layer}")
        value = graph.add("LeakyRelu", value, attributes={"alpha": 0.01})
    value = graph.add("Transpose", value, attributes={"perm": [2, 0, 1]})  # [frames, batch, channels]
    for layer in range(4):
        value = _lstm(graph, value, weights, layer)
    value = graph.add("Transpose", value, attributes={"perm": [1, 0, 2]})
    for name in ("linear.0", "linear.1", "classifier"):
        value = graph.add("MatMul", value, graph.constant(weights[f"{name}.weight"].T))
        value = graph.add("Add", value, graph.constant(weights[f"{name}.bias"]))
        if name != "classifier":
            value = graph.add("LeakyRelu", value, attributes={"alpha": 0.01})
    graph.output("scores", graph.add("LogSoftmax", value, attributes={"axis": -1}), ("batch", "frames", 7))
    return graph.to_bytes()


def _instance_norm(graph: Graph, value: str, weights: Weights, name: str) -> str:
    scale, bias = graph.constant(weights[f"{name}.weight"]), graph.constant(weights[f"{name}.bias"])
    return graph.add("InstanceNormalization", value, scale, bias, attributes={"epsilon": _EPSILON})


def _sinc_filters(weights: Weights) -> np.ndarray:
    """SincNet's band-pass filters [80, 1, 251] from their learned edges: 40 even ones, and 40 odd ones."""
    name = "sincnet.conv1d.0.filterbank"
    least = 50.0  # Hz: the lowest edge, and the narrowest band
    low = least + np.abs(weights[f"{name}.low_hz_"].astype(np.float64))
    high = np.clip(low + least + np.abs(weights[f"{name}.band_hz_"].astype(np.float64)), least, SAMPLE_RATE / 2)
    times = weights[f"{name}.n_"].astype(np.float64)  # 2 pi t of the left half
    window = weights[f"{name}.window_"].astype(np.float64)
    band = high - low
    even = (np.sin(high @ times) - np.sin(low @ times)) / (times / 2) * window
    odd = (np.cos(low @ times) - np.cos(high @ times)) / (times / 2) * window
    evens = np.concatenate([even, 2 * band, even[:, ::-1]], axis=1)
    odds = np.concatenate([odd, np.zeros_like(band), -odd[:, ::-1]], axis=1)
    return (np.concatenate([evens / (2 * band), odds / (2 * band)]))[:, None, :]


def _lstm(graph: Graph, value: str, weights: Weights, layer: int) -> str:
    """One bidirectional layer, [frames, batch, inputs] -> [frames, batch, 256]."""

    def both(name: str) -> np.ndarray:
        return np.stack([_onnx_gates(weights[f"lstm.{name}_l{layer}{end}"]) for end in ("", "_reverse")])

    biases = np.concatenate([both("bias_ih"), both("bias_hh")], axis=1)
    inputs = [graph.constant(tensor) for tensor in (both("weight_ih"), both("weight_hh"), biases)]
    size = weights["lstm.weight_hh_l0"].shape[1]
    value = graph.add("LSTM", value, *inputs, attributes={"direction": "bidirectional", "hidden_size": size})
    value = graph.add("Transpose", value, attributes={"perm": [0, 2, 1, 3]})  # directions beside each other
    return graph.add("Reshape", value, graph.constant([0, 0, 2 * size]))


def _onnx_gates(tensor: np.ndarray) -> np.ndarray:
    """torch keeps the gates as input, forget, cell, output; ONNX wants input, output, forget, cell."""
    i, f, c, o = np.split(tensor, 4)
    return np.concatenate([i, o, f, c])


# --- embedding --------------------------------------------------------------------------------------------------------


def _embedding(weights: Weights) -> bytes:
    """features [batch, frames, 80], their mean over time 0 -> embedding [batch, 192]."""
    graph = Graph("embedding")
    value = graph.input("features", ("batch", "frames", 80))
    value = graph.add("Transpose", value, attributes={"perm": [0, 2, 1]})
    value = graph.add("Unsqueeze", value, graph.constant([1]))
    value = _front(graph, value, weights)
    value = _convolution(graph, value, weights, "xvector.tdnn.linear", stride=[2], padding=2)
    value = _batch_norm(graph, value, weights, "xvector.tdnn.nonlinear.batchnorm", relu=True)
    for block, (layers, dilation) in enumerate(((12, 1), (24, 2), (16, 2)), 1):
        for layer in range(1, layers + 1):
            new = _dense_layer(graph, value, weights, f"xvector.block{block}.tdnnd{layer}", dilation)
            value = graph.add("Concat", value, new, attributes={"axis": 1})
        name = f"xvector.transit{block}"
        value = _batch_norm(graph, value, weights, f"{name}.nonlinear.batchnorm", relu=True)
        value = _convolution(graph, value, weights, f"{name}.linear")
    value = _batch_norm(graph, value, weights, "xvector.out_nonlinear.batchnorm", relu=True)
    value = _statistics(graph, value)
    value = _convolution(graph, value, weights, "xvector.dense.linear")
    value = _batch_norm(graph, value, weights, "xvector.dense.nonlinear.batchnorm", relu=False)
    graph.output("embedding", graph.add("Squeeze", value, graph.constant([2])), ("batch", 192))
    return graph.to_bytes()


def _front(graph: Graph, value: str, weights: Weights) -> str:
    """The two-dimensional convolutions, [batch, 1, 80, frames] -> [batch, 320, frames]."""
    value = _convolution(graph, value, weights, "head.conv1", padding=1)
    value = _batch_norm(graph, value, weights, "head.bn1", relu=True)
    for layer in ("head.layer1", "head.layer2"):
        for block in range(2):
            name, stride = f"{layer}.{block}", [1 if block else 2, 1]
            shortcut = value
            new = _convolution(graph, value, weights, f"{name}.conv1", stride=stride, padding=1)
            new = _batch_norm(graph, new, weights, f"{name}.bn1", relu=True)
            new = _convolution(graph, new, weights, f"{name}.conv2", padding=1)
            new = _batch_norm(graph, new, weights, f"{name}.bn2", relu=False)
            if not block:
                shortcut = _convolution(graph, value, weights, f"{name}.shortcut.0", stride=stride)
                shortcut = _batch_norm(graph, shortcut, weights, f"{name}.shortcut.1", relu=False)
            value = graph.add("Relu", graph.add("Add", new, shortcut))
    value = _convolution(graph, value, weights, "head.conv2", stride=[2, 1], padding=1)
    value = _batch_norm(graph, value, weights, "head.bn2", relu=True)
    return graph.add("Reshape", value, graph.constant([0, 320, -1]))


def _dense_layer(graph: Graph, value: str, weights: Weights, name: str, dilation: int) -> str:
    """A time-delay layer whose output is masked by its context: the mean over all, and over each 100 frames."""
    value = _batch_norm(graph, value, weights, f"{name}.nonlinear1.batchnorm", relu=True)
    value = _convolution(graph, value, weights, f"{name}.linear1")
    value = _batch_norm(graph, value, weights, f"{name}.nonlinear2.batchnorm", relu=True)
    local = _convolution(graph, value, weights, f"{name}.cam_layer.linear_local", padding=dilation, dilation=dilation)
    whole = graph.add("ReduceMean", value, attributes={"axes": [2]})
    piece = graph.add("AveragePool", value, attributes={"kernel_shape": [100], "strides": [100], "ceil_mode": 1})
    piece = _repeat(graph, piece, like=value)
    context = graph.add("Add", whole, piece)
    context = graph.add("Relu", _convolution(graph, context, weights, f"{name}.cam_layer.linear1"))
    mask = graph.add("Sigmoid", _convolution(graph, context, weights, f"{name}.cam_layer.linear2"))
    return graph.add("Mul", local, mask)


def _repeat(graph: Graph, value: str, like: str) -> str:
    """[batch, channels, n] -> [batch, channels, frames]: each value 100 times, cut to the length of `like`."""
    value = graph.add("Unsqueeze", value, graph.constant([3]))
    value = graph.add("Expand", value, graph.constant([1, 1, 1, 100]))
    value = graph.add("Reshape", value, graph.constant([0, 0, -1]))
    length = graph.add("Shape", like, attributes={"start": 2})
    return graph.add("Slice", value, graph.constant([0]), length, graph.constant([2]))


def _statistics(graph: Graph, value: str) -> str:
    """Mean and unbiased standard deviation over time, [batch, channels, frames] -> [batch, 2 * channels, 1]."""
    mean = graph.add("ReduceMean", value, attributes={"axes": [2]})
    spread = graph.add("Sub", value, mean)
    squares = graph.add("ReduceSumSquare", spread, attributes={"axes": [2]})
    frames = graph.add("Cast", graph.add("Shape", value, attributes={"start": 2}), attributes={"to": 1})
    variance = graph.add("Div", squares, graph.add("Sub", frames, graph.constant(1.0)))
    return graph.add("Concat", mean, graph.add("Sqrt", variance), attributes={"axis": 1})


def _convolution(
    graph: Graph,
    value: str,
    weights: Weights,
    name: str,
    stride: list[int] | None = None,
    padding: int = 0,
    dilation: int = 1,
) -> str:
    kernel = weights[f"{name}.weight"]
    inputs = [graph.constant(kernel)]
    if f"{name}.bias" in weights:
        inputs.append(graph.constant(weights[f"{name}.bias"]))
    axes = kernel.ndim - 2
    attributes = {
        "strides": stride or [1] * axes,
        "pads": [padding] * 2 * axes,
        "dilations": [dilation] * axes,
    }
    return graph.add("Conv", value, *inputs, attributes={**attributes})


def _batch_norm(graph: Graph, value: str, weights: Weights, name: str, relu: bool) -> str:
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    scale, bias = weights.get(f"{name}.weight", np.ones_like(mean)), weights.get(f"{name}.bias", np.zeros_like(mean))
    inputs = [graph.constant(tensor) for tensor in (scale, bias, mean, variance)]
    value = graph.add("BatchNormalization", value, *inputs, attributes={"epsilon": _EPSILON})
    return graph.add("Relu", value) if relu else value
