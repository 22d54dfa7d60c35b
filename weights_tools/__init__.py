"""Checkpoints: made from a seed, made from scenes, remade from their published sources."""
