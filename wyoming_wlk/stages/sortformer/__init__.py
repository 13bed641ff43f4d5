"""Who spoke when, by NVIDIA's streaming Sortformer (arXiv 2507.18446) out of NeMo."""

from wyoming_wlk.stages.sortformer.loading import load_sortformer as load_sortformer
