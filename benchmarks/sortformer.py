"""How fast Sortformer is on this machine: a model of the real one's size with random weights, on noise.

python -m benchmarks.sortformer [--latency 30.4 10 1.04 0.32] [--clients 1 4] [--threads 1]

Wants NeMo: script/setup-sortformer, and then .venv-sortformer/bin/python instead of python.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.report import print_machine, print_table, progress
from wyoming_wlk.stages.diarizer import DiarizationOptions, Heard
from wyoming_wlk.stages.sortformer.chunks import CACHE, FRAME, MEL_REACH, SAMPLE_RATE, chunks_for
from wyoming_wlk.stages.sortformer.diarizer import SortformerDiarizer
from wyoming_wlk.stages.sortformer.network import SortformerNetwork, load_network
from wyoming_wlk.stages.sortformer.state import SortformerState

if TYPE_CHECKING:
    from nemo.collections.asr.models import SortformerEncLabelModel


@dataclass(frozen=True)
class Sizes:
    """The dimensions of a Sortformer; those of NVIDIA's streaming models by default."""

    mel: int = 128
    conformer_layers: int = 17
    conformer: int = 512
    convolution: int = 256
    transformer_layers: int = 18
    transformer: int = 192
    inner: int = 768
    heads: int = 8
    speakers: int = 4


def model_config(sizes: Sizes) -> dict[str, object]:
    """What NeMo builds a streaming Sortformer from."""
    nemo = "nemo.collections.asr"
    return {
        "target": f"{nemo}.models.sortformer_diar_models.SortformerEncLabelModel",
        "sample_rate": SAMPLE_RATE,
        "max_num_of_spks": sizes.speakers,
        "streaming_mode": True,
        "model_defaults": {"fc_d_model": sizes.conformer, "tf_d_model": sizes.transformer},
        "preprocessor": {
            "_target_": f"{nemo}.modules.AudioToMelSpectrogramPreprocessor",
            "normalize": "NA",
            "sample_rate": SAMPLE_RATE,
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": sizes.mel,
            "n_fft": 512,
        },
        "encoder": {
            "_target_": f"{nemo}.modules.ConformerEncoder",
            "feat_in": sizes.mel,
            "n_layers": sizes.conformer_layers,
            "d_model": sizes.conformer,
            "n_heads": sizes.heads,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": sizes.convolution,
            "conv_kernel_size": 9,
        },
        "sortformer_modules": {
            "_target_": f"{nemo}.modules.sortformer_modules.SortformerModules",
            "num_spks": sizes.speakers,
            "fc_d_model": sizes.conformer,
            "tf_d_model": sizes.transformer,
        },
        "transformer_encoder": {
            "_target_": f"{nemo}.modules.transformer.transformer_encoders.TransformerEncoder",
            "num_layers": sizes.transformer_layers,
            "hidden_size": sizes.transformer,
            "inner_size": sizes.inner,
            "num_attention_heads": sizes.heads,
            "pre_ln_final_layer_norm": True,
        },
        "loss": {"_target_": f"{nemo}.losses.bce_loss.BCELoss"},
    }


def random_model(sizes: Sizes, gain: float = 1.0, **changes: object) -> SortformerEncLabelModel:
    """A model with random weights, always the same ones. `changes` are of the config's first level.

    `gain` is how much a layer strengthens what it hears.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nemo.collections.asr.models import SortformerEncLabelModel
        from omegaconf import OmegaConf

        torch.manual_seed(1)
        model = SortformerEncLabelModel(OmegaConf.create(model_config(sizes) | changes))
        for weights in model.parameters():
            if weights.dim() > 1:
                torch.nn.init.normal_(weights, 0, gain / weights[0].numel() ** 0.5)
        return model.eval()


def load(folder: Path) -> SortformerNetwork:
    file = folder / "random.nemo"
    random_model(Sizes()).save_to(str(file))
    began = time.monotonic()
    network = load_network(file)
    print(f"- {file.stat().st_size / 1e6:.0f} MB, loaded in {time.monotonic() - began:.1f} s")
    return network


def settle_in(state: SortformerState, network: SortformerNetwork) -> None:
    """Makes a new client's memory as large as after a minute: the cache is full, the FIFO has just been emptied."""
    chunks, size = chunks_for(state.options.latency), state.memory["spkcache"].shape[-1]
    fifo = max(0, chunks.fifo + chunks.length - max(chunks.period, chunks.length))
    noise = np.random.default_rng(0)
    for name, frames in (("spkcache", CACHE), ("fifo", fifo)):
        state.memory[name] = noise.standard_normal((1, frames, size)).astype(np.float32)
    state.memory["spkcache_preds"] = noise.uniform(size=(1, CACHE, network.channels)).astype(np.float32)


def measure(network: SortformerNetwork, latency: float, clients: int) -> list[str]:
    """Chunk after chunk for as long as the FIFO takes to fill and empty once."""
    progress(f"latency {latency:g} s, {clients} clients")
    chunks = chunks_for(latency)
    diarizer = SortformerDiarizer(network)
    states = [diarizer.begin(DiarizationOptions(latency=latency)) for _ in range(clients)]
    noise = np.random.default_rng(1)
    first = (noise.standard_normal((chunks.length + chunks.right) * FRAME + MEL_REACH) * 0.1).astype(np.float32)
    diarizer.step([Heard(state, first) for state in states])
    for state in states:
        settle_in(state, network)
    steps = max(1, chunks.period // chunks.length)
    wall, busy = time.monotonic(), time.process_time()
    for _ in range(steps):
        audio = (noise.standard_normal(chunks.length * FRAME) * 0.1).astype(np.float32)
        diarizer.step([Heard(state, audio) for state in states])
    wall, busy = time.monotonic() - wall, time.process_time() - busy
    length = steps * chunks.length * FRAME / SAMPLE_RATE
    return [
        f"{latency:g} s",
        str(clients),
        f"{1000 * wall / steps:.0f} ms",
        f"{wall / length:.3f}",
        f"{wall / length / clients:.3f}",
        f"{busy / length / clients:.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, nargs="+", default=[30.4, 10.0, 1.04, 0.32], help="seconds")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4], help="clients in one stack")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) - 1), help="of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        network = load(Path(folder))
    rows = [measure(network, latency, clients) for latency in arguments.latency for clients in arguments.clients]
    header = ["latency", "clients", "pass", "real-time factor of all", "of each", "processor time of each"]
    print_table(f"Sortformer's size, {arguments.threads} threads, {network.device}", header, rows)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    print(f"\nResident memory: {pages * resource.getpagesize() / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
