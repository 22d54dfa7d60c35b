"""What can go wrong with an engine before there is an answer to grade. The name of each is part of the verdict."""


class Crashed(Exception):
    """The engine ended, or refused, instead of answering."""


class Hung(Exception):
    """The engine was stopped, because it took longer than it may."""


class Garbage(Exception):
    """The engine says that it has answered, and what it gave can't be read."""
