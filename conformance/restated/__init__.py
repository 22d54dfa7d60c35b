"""What surrounds the towers, stated a second time, in steps of which each can be done otherwise."""
