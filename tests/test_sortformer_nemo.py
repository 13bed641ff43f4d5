"""Sortformer in NeMo itself: a tiny random model through our own loading code, against NeMo's one-shot predictions.

NeMo is too large for the suite's environment; script/setup-sortformer makes one of its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

if find_spec("nemo") is None:
    reason = "NeMo is not in this environment: WLK_TEST_SORTFORMER=1 script/test makes one with it, and runs this there"
    pytest.skip(reason, allow_module_level=True)

import torch

from benchmarks.sortformer import Sizes, random_model
from wyoming_wlk.errors import ModelError
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.diarizer import DiarizationOptions, Heard, Settled, SpeakerTurn
from wyoming_wlk.stages.sortformer.chunks import CACHE, FRAME, LEFT, SAMPLE_RATE, Chunks, Window, chunks_for
from wyoming_wlk.stages.sortformer.diarizer import SortformerDiarizer
from wyoming_wlk.stages.sortformer.loading import load_sortformer
from wyoming_wlk.stages.sortformer.network import SortformerNetwork, load_network
from wyoming_wlk.stages.sortformer.turns import OFFSET, ONSET

ROOT = Path(__file__).resolve().parent.parent
TINY = Sizes(
    mel=32,
    conformer_layers=2,
    conformer=32,
    convolution=8,
    transformer_layers=2,
    transformer=16,
    inner=32,
    heads=2,
)
TOLERANCE = 1e-4
"""Of probabilities: a stack of rows is summed in another order than a row alone."""
LATENCIES = [30.4, 10.0, 1.04, 0.32]


class Recorder:
    """A network that remembers the probabilities it gave, of one client or of several that are always due together."""

    def __init__(self, network: SortformerNetwork) -> None:
        self._network = network
        self.channels = network.channels
        self.begin = network.begin
        self.given: list[list[np.ndarray]] = []

    def run(self, windows: Sequence[Window]) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
        results = self._network.run(windows)
        self.given.append([probabilities for probabilities, _ in results])
        return results

    def probabilities(self, client: int = 0) -> np.ndarray:
        return np.concatenate([given[client] for given in self.given])


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness and colour change every half second, so that predictions do."""
    generator = np.random.default_rng(seed)
    samples = generator.standard_normal(round(seconds * SAMPLE_RATE))
    for start in range(0, len(samples), SAMPLE_RATE // 2):
        part = samples[start : start + SAMPLE_RATE // 2]
        part[:] = np.convolve(part, generator.standard_normal(8), "same") * generator.uniform(0, 0.2)
    return samples.astype(np.float32)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .nemo file whose random model says yes and no about equally often, to everybody."""
    model = random_model(TINY, gain=3)
    logits: list[torch.Tensor] = []
    output = model.sortformer_modules.single_hidden_to_spks
    hook = output.register_forward_hook(lambda _, __, result: logits.append(result.reshape(-1, TINY.speakers)))
    one_shot(model, noise(20), chunks_for(10))
    hook.remove()
    every = torch.cat(logits)
    scale = 2 / every.std(dim=0)
    output.weight.data *= scale[:, None]
    output.bias.data = (output.bias.data - every.mean(dim=0)) * scale
    file = tmp_path_factory.mktemp("sortformer") / "tiny.nemo"
    model.save_to(str(file))
    return file


@pytest.fixture(scope="session")
def network(tiny: Path) -> Iterator[SortformerNetwork]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_network(tiny)
    torch.set_num_threads(threads)


@pytest.fixture
def recorder(network: SortformerNetwork) -> Recorder:
    return Recorder(network)


def one_shot(model: torch.nn.Module, audio: np.ndarray, chunks: Chunks) -> np.ndarray:
    """NeMo's own predictions [frames, channels] for a whole recording in this setting."""
    rules = model.sortformer_modules
    rules.chunk_len, rules.chunk_right_context, rules.chunk_left_context = chunks.length, chunks.right, LEFT
    rules.fifo_len, rules.spkcache_update_period, rules.spkcache_len = chunks.fifo, chunks.period, CACHE
    samples = torch.tensor([len(audio)])
    with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):  # where its progress bar goes
        predictions = model.forward(audio_signal=torch.from_numpy(audio)[None], audio_signal_length=samples)
    return np.asarray(predictions[0])


def stream(network: Recorder, clips: Sequence[np.ndarray], latency: float, portion: int) -> list[list[Settled]]:
    """Clips of the same length, all at once, in portions of samples."""
    diarizer = SortformerDiarizer(network)
    states = [diarizer.begin(DiarizationOptions(latency=latency)) for _ in clips]
    settled: list[list[Settled]] = [[] for _ in clips]
    for start in range(0, len(clips[0]), portion):
        last = start + portion >= len(clips[0])
        items = [Heard(s, clip[start : start + portion], last) for s, clip in zip(states, clips, strict=True)]
        for told, result in zip(settled, diarizer.step(items), strict=True):
            assert isinstance(result, Settled)
            told.append(result)
    return settled


def joined(settled: Sequence[Settled]) -> list[SpeakerTurn]:
    """The turns, with those as one that were only parted by a horizon."""
    found: list[SpeakerTurn] = []
    for turn in sorted((turn for told in settled for turn in told.turns), key=lambda turn: (turn.speaker, turn.start)):
        if found and (found[-1].speaker, found[-1].end) == (turn.speaker, turn.start):
            turn = SpeakerTurn(found.pop().start, turn.end, turn.speaker)
        found.append(turn)
    return found


def clear(probabilities: np.ndarray) -> bool:
    """Whether no probability is so close to a threshold that the order of a sum could decide."""
    return all(np.abs(probabilities - threshold).min() > TOLERANCE for threshold in (ONSET, OFFSET))


# --- predictions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency", LATENCIES)
@pytest.mark.parametrize("portion", [777, 16001, 10**7])
def test_one_shot(recorder: Recorder, network: SortformerNetwork, latency: float, portion: int) -> None:
    """Audio in any portions gives the probabilities that NeMo gives to the whole recording at once."""
    clip = noise(60.05)
    stream(recorder, [clip], latency, portion)
    expected = one_shot(network._model, clip, chunks_for(latency))
    assert min(expected.std(axis=0)) > 0.1
    np.testing.assert_allclose(recorder.probabilities(), expected, atol=TOLERANCE)


@pytest.mark.parametrize("latency", LATENCIES)
def test_frames(recorder: Recorder, latency: float) -> None:
    """30 s of audio are 375 frames, told to the end."""
    (settled,) = stream(recorder, [noise(30)], latency, 4000)
    assert recorder.probabilities().shape == (375, 4)
    assert settled[-1].horizon == 30


@pytest.mark.parametrize("latency", LATENCIES)
def test_batch(recorder: Recorder, network: SortformerNetwork, latency: float) -> None:
    """Clients in a stack get what each gets alone."""
    clips = [noise(45, seed) for seed in range(3)]
    stacked = stream(recorder, clips, latency, 5000)
    for client, clip in enumerate(clips):
        alone = Recorder(network)
        (settled,) = stream(alone, [clip], latency, 5000)
        np.testing.assert_allclose(recorder.probabilities(client), alone.probabilities(), atol=TOLERANCE)
        if clear(alone.probabilities()):
            assert joined(stacked[client]) == joined(settled)


def test_different_clients(network: SortformerNetwork) -> None:
    """Clients of other settings, lengths and beginnings share a stack and get what each gets alone."""
    diarizer = SortformerDiarizer(network)
    clips = [noise(seconds, seed) for seed, seconds in enumerate((3, 21, 33.3, 12, 0.005))]
    latencies = [0.32, 1.04, 10, 30.4, 1.04]
    together = diarizer.step(
        [
            Heard(diarizer.begin(DiarizationOptions(latency=latency)), clip, last=True)
            for clip, latency in zip(clips, latencies, strict=True)
        ]
    )
    for clip, latency, result in zip(clips, latencies, together, strict=True):
        recorder = Recorder(network)
        (settled,) = stream(recorder, [clip], latency, 10**7)
        assert not recorder.given or clear(recorder.probabilities())
        assert settled == [result]


@pytest.mark.parametrize("latency", [10.0, 1.04])
def test_parked(recorder: Recorder, network: SortformerNetwork, latency: float) -> None:
    """A state that left the process in the middle goes on bit for bit."""
    diarizer, parked = SortformerDiarizer(recorder), Recorder(network)
    second = SortformerDiarizer(parked)
    clip = noise(50)
    here = diarizer.begin(DiarizationOptions(latency=latency))
    there = here.to_bytes()
    for start in range(0, len(clip), 30000):
        last = start + 30000 >= len(clip)
        (expected,) = diarizer.step([Heard(here, clip[start : start + 30000], last)])
        state = second.restore(there)
        assert second.step([Heard(state, clip[start : start + 30000], last)]) == [expected]
        there = state.to_bytes()
    assert np.array_equal(recorder.probabilities(), parked.probabilities())
    assert "spkcache_preds" in here.memory, "the cache was never full, which this test wants to see"


@pytest.mark.parametrize("latency", [10.0, 0.32])
def test_pause(network: SortformerNetwork, latency: float) -> None:
    """What was settled early because of a pause changes nothing of what is predicted after it."""
    diarizer, clip = SortformerDiarizer(network), noise(40)
    paused, straight = (diarizer.begin(DiarizationOptions(latency=latency)) for _ in range(2))
    half = 20 * SAMPLE_RATE + 123
    (early,) = diarizer.step([Heard(paused, clip[:half], last=True)])
    assert isinstance(early, Settled) and early.horizon == half / SAMPLE_RATE
    diarizer.step([Heard(paused, clip[half:])])
    diarizer.step([Heard(straight, clip)])
    assert paused.frame == straight.frame and paused.frame * FRAME > half
    for name, value in straight.memory.items():
        np.testing.assert_array_equal(paused.memory[name], value, name)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_load(tiny: Path, tmp_path: Path) -> None:
    """A local .nemo file becomes a diarizer, and Python's random numbers stay random."""
    random.seed(7)
    expected = random.Random(7).random()
    diarizer = load_sortformer(str(tiny), ModelStore(tmp_path, offline=True))
    assert random.random() == expected
    state = diarizer.begin(DiarizationOptions())
    (settled,) = diarizer.step([Heard(state, noise(2), last=True)])
    assert isinstance(settled, Settled) and settled.horizon == 2


def test_from_the_hub(tiny: Path, tmp_path: Path) -> None:
    """A model that was fetched from the hub is found without a network."""
    folder = tmp_path / "models" / "somebody--tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.nemo").write_bytes(tiny.read_bytes())
    (folder / "manifest.json").write_text(json.dumps({}))
    assert load_sortformer("somebody/tiny", ModelStore(tmp_path, offline=True))


def test_broken_file(tiny: Path, tmp_path: Path) -> None:
    """What is no .nemo file, or only a part of one, is an error that names it."""
    (tmp_path / "text.nemo").write_text("nothing of a model")
    (tmp_path / "half.nemo").write_bytes(tiny.read_bytes()[: tiny.stat().st_size // 2])
    with tarfile.open(tmp_path / "empty.nemo", "w"):
        pass
    for name in ("text", "half", "empty"):
        with pytest.raises(ModelError, match=f"cannot load .*{name}.nemo"):
            load_network(tmp_path / f"{name}.nemo")


@pytest.mark.parametrize(
    "changes",
    [{"streaming_mode": False}, {"preprocessor": {"normalize": "per_feature"}}],
    ids=["offline", "normalized"],
)
def test_other_models(changes: dict[str, object], tmp_path: Path) -> None:
    """Models that cannot hear in chunks are turned away."""
    from omegaconf import OmegaConf

    from benchmarks.sortformer import model_config

    changed = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(model_config(TINY)), OmegaConf.create(changes)))
    assert isinstance(changed, dict)
    file = tmp_path / "other.nemo"
    random_model(TINY, **{str(name): value for name, value in changed.items()}).save_to(str(file))
    with pytest.raises(ModelError, match="no streaming Sortformer"):
        load_network(file)


def test_says_nothing(tiny: Path, tmp_path: Path) -> None:
    """NeMo is not imported before a model is loaded, and neither it nor its friends write to stdout or stderr."""
    program = f"""
import sys, logging, warnings
from pathlib import Path
import numpy as np
from wyoming_wlk.logs import set_up
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.diarizer import DiarizationOptions, Heard
from wyoming_wlk.stages.sortformer.loading import load_sortformer
set_up("warning", "text")
shown = warnings.showwarning
assert "nemo" not in sys.modules
diarizer = load_sortformer({str(tiny)!r}, ModelStore(Path({str(tmp_path)!r}), offline=True))
diarizer.step([Heard(diarizer.begin(DiarizationOptions()), np.zeros(40000, np.float32), last=True)])
assert warnings.showwarning is shown and logging.getLogger().level == logging.WARNING
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
