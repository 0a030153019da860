"""Measurements that stand in BENCHMARKS.md; each is a module to run."""
