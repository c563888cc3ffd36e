"""What tools/cuda_check.py consists of, in this order: find, compile, read, refuse, compare."""
