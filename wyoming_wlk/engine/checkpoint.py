"""Whisper weights from disk: CTranslate2 folders, OpenAI ``.pt`` files and Hugging Face safetensors folders.

Every format ends as the same `Checkpoint`, with OpenAI's tensor names. Knows nothing about devices, precision or where
the files came from.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from wyoming_wlk.errors import ModelError

Heads = tuple[tuple[int, int], ...]
"""(decoder layer, head) pairs whose cross-attention follows the audio in time."""

# CTranslate2's type numbers for the float types that faster-whisper folders on the hub use.
_CT2_FLOATS: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 4: np.dtype("<f2")}
_CT2_SCALARS = {1: "<b", 2: "<h", 3: "<i"}
_CT2_VERSION = 6


@dataclass(frozen=True)
class Dimensions:
    """The ten numbers that make one Whisper different from another."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    @property
    def multilingual(self) -> bool:
        return self.n_vocab >= 51865


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model file: its dimensions and its tensors under OpenAI's names (float16 or float32, on the CPU)."""

    dims: Dimensions
    tensors: dict[str, Tensor]
    alignment_heads: Heads | None
    """None where the format does not say; the caller then falls back to `default_alignment_heads`."""


def load_checkpoint(path: Path) -> Checkpoint:
    """Loads a model folder or a single ``.pt`` / ``model.bin`` / ``.safetensors`` file.

    Raises `ModelError` where nothing loadable is found or the file is broken.
    """
    loaders: list[tuple[str, Callable[[Path], Checkpoint]]] = [
        ("model.bin", _load_ctranslate2),
        ("*.pt", _load_openai),
        ("model.safetensors", _load_hugging_face),
        ("model.safetensors.index.json", _load_hugging_face),
    ]
    for pattern, load in loaders:
        found = sorted(path.glob(pattern)) if path.is_dir() else [path] if path.match(pattern) else []
        if found:
            try:
                return load(found[0])
            except ModelError:
                raise
            except Exception as err:  # a broken file can raise nearly anything from its parser
                raise ModelError(f"cannot read model file {found[0]}: {err}") from err
    raise ModelError(f"no model.bin, *.pt or model.safetensors in {path}")


def default_alignment_heads(dims: Dimensions) -> Heads:
    """Every head of the decoder's upper half: what OpenAI's code uses where nothing better is known."""
    layers = range(dims.n_text_layer // 2, dims.n_text_layer)
    return tuple((layer, head) for layer in layers for head in range(dims.n_text_head))


def _dimensions(tensors: dict[str, Tensor], audio_heads: int, text_heads: int) -> Dimensions:
    def layers(part: str) -> int:
        return 1 + max(int(m[1]) for m in (re.match(rf"{part}\.blocks\.(\d+)\.", name) for name in tensors) if m)

    try:
        n_audio_state, n_mels, _ = tensors["encoder.conv1.weight"].shape
        n_vocab, n_text_state = tensors["decoder.token_embedding.weight"].shape
        return Dimensions(
            n_mels=n_mels,
            n_audio_ctx=1500,
            n_audio_state=n_audio_state,
            n_audio_head=audio_heads,
            n_audio_layer=layers("encoder"),
            n_vocab=n_vocab,
            n_text_ctx=tensors["decoder.positional_embedding"].shape[0],
            n_text_state=n_text_state,
            n_text_head=text_heads,
            n_text_layer=layers("decoder"),
        )
    except (KeyError, ValueError) as err:
        raise ModelError(f"not a Whisper model: {err}") from err


# --- OpenAI -----------------------------------------------------------------------------------------------------------


def _load_openai(path: Path) -> Checkpoint:
    data = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(data, dict) or "dims" not in data or "model_state_dict" not in data:
        raise ModelError(f"{path} is not an OpenAI Whisper checkpoint")
    tensors: dict[str, Tensor] = data["model_state_dict"]
    dims = Dimensions(**data["dims"])
    return Checkpoint(dims, tensors, OPENAI_ALIGNMENT_HEADS.get(_openai_name(dims, path)))


def _openai_name(dims: Dimensions, path: Path) -> str:
    """OpenAI's files do not carry their name: dimensions tell all but the large ones apart, the file name those."""
    sizes = {384: "tiny", 512: "base", 768: "small", 1024: "medium", 1280: "large"}
    size = sizes.get(dims.n_audio_state, "")
    if size == "large":
        if dims.n_text_layer == 4:
            return "large-v3-turbo"
        return "large-v3" if dims.n_mels == 128 else "large-v1" if "v1" in path.stem else "large-v2"
    return size if dims.multilingual else f"{size}.en"


# --- Hugging Face -----------------------------------------------------------------------------------------------------

_HF_RENAMES = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"\.self_attn\.", ".attn."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".out."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"\.embed_tokens\.", ".token_embedding."),
    (r"\.embed_positions\.weight", ".positional_embedding"),
    (r"^encoder\.layer_norm\.", "encoder.ln_post."),
    (r"^decoder\.layer_norm\.", "decoder.ln."),
)


def _load_hugging_face(path: Path) -> Checkpoint:
    from safetensors.torch import load_file

    files = [path]
    if path.name.endswith(".index.json"):
        index = json.loads(path.read_text())["weight_map"]
        files = [path.parent / Path(name).name for name in sorted(set(index.values()))]
    config = json.loads((path.parent / "config.json").read_text())
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in load_file(file).items():
            for pattern, new in _HF_RENAMES:
                name = re.sub(pattern, new, name)
            if name != "proj_out.weight":
                tensors[name] = tensor
    generation = path.parent / "generation_config.json"
    heads = json.loads(generation.read_text()).get("alignment_heads") if generation.exists() else None
    dims = _dimensions(tensors, config["encoder_attention_heads"], config["decoder_attention_heads"])
    return Checkpoint(dims, tensors, _heads(heads))


def _heads(pairs: list[list[int]] | None) -> Heads | None:
    return tuple((layer, head) for layer, head in pairs) if pairs else None


# --- CTranslate2 ------------------------------------------------------------------------------------------------------


def _load_ctranslate2(path: Path) -> Checkpoint:
    """A faster-whisper folder's model.bin: float tensors with fused query/key/value projections, which we split again.

    The layout is: version, specification name and revision, then per variable its name, rank, dimensions, type number
    and bytes; little-endian throughout.
    """
    with path.open("rb") as file:
        variables = _read_ct2_variables(file)
    config_file = path.parent / "config.json"
    config = json.loads(config_file.read_text()) if config_file.exists() else {}
    tensors: dict[str, Tensor] = {}
    for name, array in variables.items():
        if isinstance(array, np.ndarray) and array.ndim:
            _place_ct2_tensor(tensors, name, torch.from_numpy(array))
    audio_heads, text_heads = (_ct2_scalar(variables, f"{part}/num_heads") for part in ("encoder", "decoder"))
    return Checkpoint(_dimensions(tensors, audio_heads, text_heads), tensors, _heads(config.get("alignment_heads")))


def _ct2_scalar(variables: dict[str, np.ndarray | int], name: str) -> int:
    value = variables.get(name)
    if not isinstance(value, int):
        raise ModelError(f"model.bin lacks {name}")
    return value


def _read_ct2_variables(file: BinaryIO) -> dict[str, np.ndarray | int]:
    def read(size: int) -> bytes:
        data = file.read(size)
        if len(data) != size:
            raise ModelError("model.bin ends too early")
        return data

    def number(form: str) -> int:
        return int(struct.unpack(form, read(struct.calcsize(form)))[0])

    def text() -> str:
        return read(number("<H")).rstrip(b"\0").decode()

    version = number("<I")
    if version > _CT2_VERSION:
        raise ModelError(f"model.bin has format version {version}; at most {_CT2_VERSION} is known")
    if (name := text()) != "WhisperSpec":
        raise ModelError(f"model.bin holds a {name!r}, not a Whisper model")
    number("<I")
    variables: dict[str, np.ndarray | int] = {}
    for _ in range(number("<I")):
        name = text()
        shape = [number("<I") for _ in range(number("<B"))]
        kind, size = number("<B"), number("<I")
        data = read(size)
        if kind in _CT2_FLOATS:
            variables[name] = np.frombuffer(bytearray(data), _CT2_FLOATS[kind]).reshape(shape)
        elif not shape:
            variables[name] = int(struct.unpack(_CT2_SCALARS[kind], data)[0])
        elif name.endswith("weight"):
            raise ModelError("this CTranslate2 model is quantized on disk; use a float16 or float32 one")
    return variables


_CT2_RENAMES = (
    (".gamma", ".weight"),
    (".beta", ".bias"),
    ("decoder.embeddings.weight", "decoder.token_embedding.weight"),
    (".position_encodings.encodings", ".positional_embedding"),
    ("encoder.layer_norm.", "encoder.ln_post."),
    ("decoder.layer_norm.", "decoder.ln."),
    (".self_attention.layer_norm.", ".attn_ln."),
    (".attention.layer_norm.", ".cross_attn_ln."),
    (".ffn.layer_norm.", ".mlp_ln."),
    (".ffn.linear_0.", ".mlp.0."),
    (".ffn.linear_1.", ".mlp.2."),
    (".self_attention.", ".attn."),
    (".attention.", ".cross_attn."),
)


def _place_ct2_tensor(tensors: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    """Stores one CTranslate2 variable under OpenAI's name, split where CTranslate2 fuses projections."""
    # "layer_norm" must survive the renaming of "layer_0"
    name = re.sub(r"layer_(?=\d)", "blocks.", name.replace("/", "."))
    for old, new in _CT2_RENAMES:
        name = name.replace(old, new)
    match = re.match(r"(.*\.(?:attn|cross_attn))\.linear_(\d)\.(weight|bias)$", name)
    if match is None:
        tensors[name] = tensor
        return
    prefix, index, kind = match[1], int(match[2]), match[3]
    fused = {
        "attn": (("query", "key", "value"), ("out",)),
        "cross_attn": (("query",), ("key", "value"), ("out",)),
    }[prefix.rsplit(".", 1)[1]][index]
    for projection, part in zip(fused, tensor.chunk(len(fused)), strict=True):
        if not (projection == "key" and kind == "bias"):  # Whisper's key projection has none; the file holds zeros
            tensors[f"{prefix}.{projection}.{kind}"] = part


# Published by OpenAI beside the weights (there as packed bit masks).
OPENAI_ALIGNMENT_HEADS: dict[str, Heads] = {
    "tiny.en": ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)),
    "tiny": ((2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5)),
    "base.en": ((3, 3), (4, 7), (5, 1), (5, 5), (5, 7)),
    "base": ((3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6)),
    "small.en": (
        (6, 6),
        (7, 0),
        (7, 3),
        (7, 8),
        (8, 2),
        (8, 5),
        (8, 7),
        (9, 0),
        (9, 4),
        (9, 8),
        (9, 10),
        (10, 0),
        (10, 1),
        (10, 2),
        (10, 3),
        (10, 6),
        (10, 11),
        (11, 2),
        (11, 4),
    ),
    "small": ((5, 3), (5, 9), (8, 0), (8, 4), (8, 7), (8, 8), (9, 0), (9, 7), (9, 9), (10, 5)),
    "medium.en": (
        (11, 4),
        (14, 1),
        (14, 12),
        (14, 14),
        (15, 4),
        (16, 0),
        (16, 4),
        (16, 9),
        (17, 12),
        (17, 14),
        (18, 7),
        (18, 10),
        (18, 15),
        (20, 0),
        (20, 3),
        (20, 9),
        (20, 14),
        (21, 12),
    ),
    "medium": ((13, 15), (15, 4), (15, 15), (16, 1), (20, 0), (23, 4)),
    "large-v1": ((9, 19), (11, 2), (11, 4), (11, 17), (22, 7), (22, 11), (22, 17), (23, 2), (23, 15)),
    "large-v2": (
        (10, 12),
        (13, 17),
        (16, 11),
        (16, 12),
        (16, 13),
        (17, 15),
        (17, 16),
        (18, 4),
        (18, 11),
        (18, 19),
        (19, 11),
        (21, 2),
        (21, 3),
        (22, 3),
        (22, 9),
        (22, 12),
        (23, 5),
        (23, 7),
        (23, 13),
        (25, 5),
        (26, 1),
        (26, 12),
        (27, 15),
    ),
    "large-v3": ((7, 0), (10, 17), (12, 18), (13, 12), (16, 1), (17, 14), (19, 11), (21, 4), (24, 1), (25, 6)),
    "large-v3-turbo": ((2, 4), (2, 11), (3, 3), (3, 6), (3, 11), (3, 14)),
}
