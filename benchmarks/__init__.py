"""What Lockstep costs, measured on the machine at hand and never asserted: ``python -m benchmarks --help``."""
