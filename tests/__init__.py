"""One file a module of clipref: did we break it."""
