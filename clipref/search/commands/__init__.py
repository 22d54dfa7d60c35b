"""The commands of a searched folder, one file each; they are made of `clipref.search.Index`."""
