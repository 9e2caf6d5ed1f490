"""Measuring and searching in PyTorch."""
