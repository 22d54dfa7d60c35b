"""Is it CLIP: a suite for any engine, which says how exactly it computes and, if it doesn't, what is wrong with it."""
