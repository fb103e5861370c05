"""Fuzzers: random and damaged inputs for everything that takes some, and what must hold whatever they are.

Each `test_*.py` has one kind of input. hypothesis makes the inputs, so a failure is shrunk to the least input that
shows it and printed. `make fuzz` runs 10,000 of them with a random seed, which it prints; ``FUZZ_SEED=n make fuzz``
runs the same ones again. `make test` runs a few hundred, always the same.
"""
