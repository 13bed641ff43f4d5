"""Our Whisper against a reference implementation, and against itself: batched, parked, in other file formats."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Clip
from transformers import WhisperConfig, WhisperForConditionalGeneration

from wyoming_wlk.engine import layers, script
from wyoming_wlk.engine.cache import CrossAttention, KVCache
from wyoming_wlk.engine.checkpoint import OPENAI_ALIGNMENT_HEADS, Checkpoint, Dimensions, load_checkpoint
from wyoming_wlk.engine.linear import Int8Linear, int8_is_fast
from wyoming_wlk.engine.mel import MelFrontend, MelWindow
from wyoming_wlk.engine.model import DecoderInput, Precision, Whisper
from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.errors import ModelError
from wyoming_wlk.models import InstalledModel

CPU = torch.device("cpu")
_TO_HF = (
    (r"\.blocks\.", ".layers."),
    (r"\.attn\.", ".self_attn."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    (r"\.out\.", ".out_proj."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.token_embedding\.", ".embed_tokens."),
    (r"\.positional_embedding", ".embed_positions.weight"),
    (r"^encoder\.ln_post\.", "encoder.layer_norm."),
    (r"^decoder\.ln\.", "decoder.layer_norm."),
)


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def checkpoint(tiny_en: InstalledModel) -> Checkpoint:
    return load_checkpoint(tiny_en.folder)


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> WhisperForConditionalGeneration:
    """The transformers library's Whisper with the same weights."""
    dims = checkpoint.dims
    config = WhisperConfig(
        vocab_size=dims.n_vocab,
        d_model=dims.n_audio_state,
        encoder_layers=dims.n_audio_layer,
        decoder_layers=dims.n_text_layer,
        encoder_attention_heads=dims.n_audio_head,
        decoder_attention_heads=dims.n_text_head,
        encoder_ffn_dim=4 * dims.n_audio_state,
        decoder_ffn_dim=4 * dims.n_text_state,
    )
    model = WhisperForConditionalGeneration(config).eval()
    state = {}
    for name, tensor in checkpoint.tensors.items():
        for pattern, new in _TO_HF:
            name = re.sub(pattern, new, name)
        state["model." + name] = tensor.float()
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> Whisper:
    return Whisper(checkpoint, Precision.choose("float32", CPU), CPU)


def random_checkpoint(seed: int = 0) -> Checkpoint:
    """A tiny Whisper with random weights."""
    dims = Dimensions(80, 1500, 64, 4, 2, 51864, 448, 64, 4, 2)
    torch.manual_seed(seed)
    tensors = {
        "encoder.conv1.weight": torch.randn(64, 80, 3) * 0.1,
        "encoder.conv1.bias": torch.zeros(64),
        "encoder.conv2.weight": torch.randn(64, 64, 3) * 0.1,
        "encoder.conv2.bias": torch.zeros(64),
        "encoder.positional_embedding": torch.randn(1500, 64) * 0.1,
        "decoder.positional_embedding": torch.randn(448, 64) * 0.1,
        "decoder.token_embedding.weight": torch.randn(51864, 64) * 0.1,
    }
    norms = ["encoder.ln_post", "decoder.ln"]
    for part, attentions in (("encoder", ["attn"]), ("decoder", ["attn", "cross_attn"])):
        for layer in range(2):
            block = f"{part}.blocks.{layer}"
            norms += [f"{block}.{name}_ln" for name in [*attentions, "mlp"]]
            linears = [f"{block}.{a}.{p}" for a in attentions for p in ("query", "key", "value", "out")]
            for name, rows, columns in [(n, 64, 64) for n in linears] + [
                (f"{block}.mlp.0", 256, 64),
                (f"{block}.mlp.2", 64, 256),
            ]:
                tensors[f"{name}.weight"] = torch.randn(rows, columns) * 0.2
                if not name.endswith("key"):
                    tensors[f"{name}.bias"] = torch.randn(rows) * 0.1
    for name in norms:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.ones(64), torch.zeros(64)
    return Checkpoint(dims, tensors, ((1, 0), (1, 3)))


def mel_of(samples: np.ndarray, frames: int) -> torch.Tensor:
    return MelWindow(MelFrontend(80, CPU)).update(samples, 2 * frames)


def full_window(model: Whisper, samples: np.ndarray) -> tuple[torch.Tensor, CrossAttention]:
    """Features and cross-attention of a whole 30 s window, as the published network has them."""
    memory = model.new_memory()
    assert memory is not None
    features = model.encoder.extend(mel_of(samples, 1500), 0, model.silence, memory)
    return features, CrossAttention(model.decoder.cross_keys_values(features), 1500)


def test_mel_equals_the_reference(clips: dict[str, Clip]) -> None:
    """Log-mel frames are those of the transformers feature extractor."""
    from transformers import WhisperFeatureExtractor

    samples = clips["turn_on_the_lamp"].samples
    extracted = WhisperFeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt").input_features[0]
    assert torch.allclose(mel_of(samples, 1500), extracted, atol=2e-5)


def test_mel_computed_as_audio_arrives_is_the_same(clips: dict[str, Clip]) -> None:
    """Extending a window chunk by chunk gives the frames of the whole, to rounding."""
    samples = clips["turn_on_the_lamp"].samples
    window = MelWindow(MelFrontend(80, CPU))
    for end in range(777, len(samples), 3331):
        window.update(samples[:end], 1000)
    whole = MelWindow(MelFrontend(80, CPU)).update(samples, 1000)
    assert torch.allclose(window.update(samples, 1000), whole, atol=1e-4)


def test_encoder_equals_the_reference(
    model: Whisper, reference: WhisperForConditionalGeneration, clips: dict[str, Clip]
) -> None:
    """A full window's features agree to rounding."""
    samples = clips["1688-142285-0005"].samples
    ours, _ = full_window(model, samples)
    theirs = reference.model.encoder(mel_of(samples, 1500)[None]).last_hidden_state[0]
    assert (ours - theirs).abs().max() < 2e-3


def test_decoder_equals_the_reference(
    model: Whisper, reference: WhisperForConditionalGeneration, clips: dict[str, Clip], tiny_en: InstalledModel
) -> None:
    """Logits of a forced text agree to rounding, in one pass and token by token through the cache."""
    tokenizer = Tokenizer(tiny_en.tokenizer, model.dims.n_vocab)
    tokens = tokenizer.start_sequence("en", "transcribe") + tokenizer.encode(" You who were always accusing people")
    features, cross = full_window(model, clips["1688-142285-0005"].samples)
    theirs = reference(encoder_outputs=(features[None],), decoder_input_ids=torch.tensor([tokens])).logits[0]
    cache = model.new_cache(2)
    cache.set_audio(0, cross)
    cache.set_audio(1, cross)
    at_once = model.decoder([DecoderInput(0, [0], [tokens])], cache)[0].hidden
    stepwise = [model.decoder([DecoderInput(1, [1], [[token]])], cache)[0].hidden for token in tokens]
    assert (model.decoder.logits(at_once) - theirs).abs().max() < 2e-3
    assert (model.decoder.logits(torch.cat(stepwise)) - theirs).abs().max() < 2e-3


def test_thinned_silence_reads_like_a_full_window(model: Whisper, clips: dict[str, Clip]) -> None:
    """Encoding only the audio beside cached silence changes next-token predictions little: most stay the same."""
    tokenizer_start = [50257, 50362]
    same = total = 0
    for name in ("1688-142285-0005", "1688-142285-0003", "turn_on_the_lamp"):
        samples = clips[name].samples
        _, full = full_window(model, samples)
        short = model.encode([mel_of(samples, (len(samples) // 16000 + 2) * 50)])[0]
        assert short.keys_values.shape[3] < full.keys_values.shape[3] / 2
        tokens = list(tokenizer_start)
        cache = model.new_cache(2)
        cache.set_audio(0, full)
        cache.set_audio(1, short)
        for _ in range(12):
            new = tokens if cache.tokens[0] == 0 else tokens[-1:]
            a, b = model.decoder([DecoderInput(0, [0], [new]), DecoderInput(1, [1], [new])], cache)
            full_choice, short_choice = (int(model.decoder.logits(o.hidden[-1:]).argmax()) for o in (a, b))
            same, total = same + (full_choice == short_choice), total + 1
            tokens.append(full_choice)
    assert same >= 0.85 * total


@pytest.mark.skipif(not int8_is_fast(), reason="this CPU has no exact int8 products")
def test_int8_rows_do_not_depend_on_their_neighbours() -> None:
    """A row gives the same bits alone and in any batch, for encoder and decoder."""
    whisper = Whisper(random_checkpoint(), Precision.choose("int8", CPU), CPU)
    generator = torch.Generator().manual_seed(1)
    mels = [torch.randn(80, 2 * n, generator=generator) for n in (50, 100, 150, 300)]
    together, alone = whisper.encode(mels), [whisper.encode([mel])[0] for mel in mels]
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a.keys_values, b.keys_values)
    tokens = [[50257, 50362, *range(100, 100 + 5 * i)] for i in range(4)]
    shared, own = whisper.new_cache(4), [whisper.new_cache(1) for _ in mels]
    for slot, cross in enumerate(alone):
        shared.set_audio(slot, cross)
        own[slot].set_audio(0, cross)
    for new in (tokens, [[7]] * 4, [[8]] * 4):
        batch = whisper.decoder([DecoderInput(i, [i], [row]) for i, row in enumerate(new)], shared)
        for i, row in enumerate(new):
            single = whisper.decoder([DecoderInput(0, [0], [row])], own[i])[0]
            assert torch.equal(batch[i].hidden, single.hidden)
            assert torch.equal(batch[i].attention, single.attention)


def test_int8_products_are_close_to_exact() -> None:
    """Quantizing weights and activations costs under one percent."""
    generator = torch.Generator().manual_seed(2)
    weight, bias = torch.randn(256, 128, generator=generator), torch.randn(256, generator=generator)
    x = torch.randn(5, 128, generator=generator)
    exact = x @ weight.t() + bias
    assert ((Int8Linear(weight, bias)(x) - exact).norm() / exact.norm()) < 0.015


@pytest.mark.parametrize("compute_type", ["float32", "bfloat16", "auto"])
def test_scripts_compute_what_python_does(compute_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As TorchScript and as Python, where there is none, the model gives the same bits."""
    mel = torch.randn(80, 400, generator=torch.Generator().manual_seed(2))
    batches = [[DecoderInput(0, [0], [[50257, 50362, 4]]), DecoderInput(1, [1], [[50257, 50362]])]]
    batches += [[DecoderInput(0, [0], [[7]]), DecoderInput(1, [1], [[8]])]]
    found = []
    for supported in (True, False):
        monkeypatch.setattr(script, "_SUPPORTED", supported)
        whisper = Whisper(random_checkpoint(), Precision.choose(compute_type, CPU), CPU)
        cache = whisper.new_cache(3)
        cross = whisper.encode([mel, mel[:, 100:300]])
        for slot in (0, 1):
            cache.set_audio(slot, cross[slot])
        passes = [whisper.decoder(batch, cache) for batch in batches]
        cache.copy_tokens(0, 2)
        passes.append(whisper.decoder([DecoderInput(0, [0, 2], [[9], [10]])], cache))
        logits = [whisper.decoder.logits(output.hidden) for output in passes]
        found.append([*(one.keys_values for one in cross), *logits, *(output.attention for output in passes)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_int8_is_refused_where_it_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that cuts int8 sums off takes float32 by itself, and says so when it is told to use int8."""
    monkeypatch.setattr(layers, "int8_is_fast", lambda: False)
    assert Precision.choose("auto", CPU).linear == torch.float32
    with pytest.raises(ModelError, match="VNNI"):
        Precision.choose("int8", CPU)


def test_beams_equal_separate_rows(model: Whisper, clips: dict[str, Clip]) -> None:
    """Beams that share one audio give what rows with a copy of it give."""
    cross = model.encode([mel_of(clips["turn_on_the_lamp"].samples, 200)])[0]
    grouped, separate = model.new_cache(3), model.new_cache(3)
    grouped.set_audio(0, cross)
    for slot in range(3):
        separate.set_audio(slot, cross)
    start = [50257, 50362]
    for slot in range(3):
        model.decoder([DecoderInput(0, [slot], [start])], grouped)
    model.decoder([DecoderInput(slot, [slot], [start]) for slot in range(3)], separate)
    for new in ([[400], [500], [600]], [[401], [501], [601]]):
        together = model.decoder([DecoderInput(0, [0, 1, 2], new)], grouped)[0]
        rows = model.decoder([DecoderInput(i, [i], [row]) for i, row in enumerate(new)], separate)
        assert torch.allclose(together.hidden, torch.cat([row.hidden for row in rows]), atol=1e-3)


def test_park_and_restore_is_bit_exact() -> None:
    """A row that was parked, overwritten and restored elsewhere decodes on as if nothing had happened."""
    whisper = Whisper(random_checkpoint(), Precision.choose("float32", CPU), CPU)
    cross = whisper.encode([torch.randn(80, 200, generator=torch.Generator().manual_seed(3))])[0]
    moved, stayed = whisper.new_cache(3), whisper.new_cache(3)
    for cache in (moved, stayed):
        cache.set_audio(0, cross)
        whisper.decoder([DecoderInput(0, [0], [[50257, 50362, 5, 6]])], cache)
    parked = moved.park(0)
    _scribble(moved)
    moved.restore(2, parked)
    after_move = whisper.decoder([DecoderInput(2, [2], [[7]])], moved)[0]
    undisturbed = whisper.decoder([DecoderInput(0, [0], [[7]])], stayed)[0]
    assert torch.equal(after_move.hidden, undisturbed.hidden)


def _scribble(cache: KVCache) -> None:
    cache.self_kv.fill_(float("nan"))
    cache.cross_kv.fill_(float("nan"))


def test_checkpoint_formats_hold_the_same_tensors(
    checkpoint: Checkpoint, reference: WhisperForConditionalGeneration, tmp_path: Path
) -> None:
    """A CTranslate2 folder, an OpenAI file and a Hugging Face folder of one model load alike."""
    reference.save_pretrained(tmp_path / "hf")
    torch.save({"dims": vars(checkpoint.dims), "model_state_dict": checkpoint.tensors}, tmp_path / "tiny.en.pt")
    for path in (tmp_path / "hf", tmp_path / "tiny.en.pt", tmp_path):
        loaded = load_checkpoint(path)
        assert loaded.dims == checkpoint.dims
        assert loaded.tensors.keys() == checkpoint.tensors.keys()
        for name, tensor in checkpoint.tensors.items():
            assert torch.equal(loaded.tensors[name].float(), tensor.float()), name
    assert load_checkpoint(tmp_path / "tiny.en.pt").alignment_heads == OPENAI_ALIGNMENT_HEADS["tiny.en"]
    assert checkpoint.alignment_heads == OPENAI_ALIGNMENT_HEADS["tiny.en"]


@pytest.mark.parametrize("name", ["model.bin", "x.pt", "model.safetensors"])
def test_broken_checkpoints_are_refused(name: str, tmp_path: Path) -> None:
    """Garbage in any format is a ModelError that names the file."""
    (tmp_path / name).write_bytes(b"\x06\x00\x00\x00\x0c\x00WhisperSpec\x00garbage")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError):
        load_checkpoint(tmp_path)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    """A folder without weights is refused with what was looked for."""
    with pytest.raises(ModelError, match=r"no model\.bin"):
        load_checkpoint(tmp_path)
