"""What can go wrong with an engine before there is an answer to grade; `told` begins the verdict."""


class Failure(Exception):
    """No answer."""

    told = "failed"


class Crashed(Failure):
    """The engine ended, or refused, instead of answering."""

    told = "crashed"


class Killed(Crashed):
    """The engine was ended by a signal, which nobody would call a refusal."""

    told = "crashed"


class Hung(Failure):
    """The engine was stopped, because it took longer than it may."""

    told = "hung"


class Garbage(Failure):
    """The engine says that it has answered, and what it gave can't be read."""

    told = "answered garbage"


class Contradiction(Failure):
    """A server says one thing in one of its dialects, and another in another."""

    told = "contradicted itself"


class Raised(Failure):
    """The engine, in a process of its own, raised an exception, of which there is only the name and the words here."""

    def __init__(self, name: str, words: str) -> None:
        super().__init__(words)
        self.told = f"raised {name}"


class Exited(Killed, Raised):
    """The engine wanted to end the process that it is in."""
