"""Who spoke when, by NVIDIA's streaming Sortformer (arXiv 2507.18446) out of NeMo."""
