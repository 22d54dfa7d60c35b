"""What the server answers instead of embeddings: a status, a sentence, and what else a client can act on."""

from __future__ import annotations


class Refusal(Exception):
    """A request that isn't answered. Each dialect has its own shape for it.

    `status`: of HTTP. `code`: a short name for programs. `param`: which part of the request is meant. `retry_after`:
    seconds after which the same request may succeed.
    """

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code or CODES.get(status, "error")
        self.param = param
        self.retry_after = retry_after


CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    429: "overloaded",
    500: "internal_error",
    503: "not_ready",
    504: "deadline_exceeded",
}


def wrong(message: str, param: str | None = None) -> Refusal:
    """The request is not what the route takes."""
    return Refusal(400, message, param=param)
