"""Runtimes: one file each, and parity with eager PyTorch."""
