"""The steps of scripts/bench_gpu."""
