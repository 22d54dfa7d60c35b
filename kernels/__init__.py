"""Everything that is there to be fast: one file a kernel set, imported only when chosen."""
