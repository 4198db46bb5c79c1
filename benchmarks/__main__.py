"""All benchmarks, one after the other; those that need real photos or another Python say how to give them."""

from __future__ import annotations

from benchmarks import engines, few_photos, finetune, fit, notes, object_sizes, strategies


def main() -> None:
    """Run each with its defaults."""
    for benchmark in (engines, fit, few_photos, finetune, strategies, notes, object_sizes):
        print(f"\n== {benchmark.__name__}: {(benchmark.__doc__ or '').splitlines()[0]}", flush=True)
        benchmark.main([])


if __name__ == "__main__":
    main()
