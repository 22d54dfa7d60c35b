"""One file a subject: did we break it."""

import pytest

# Assertions in helper modules explain themselves as those in test modules do.
pytest.register_assert_rewrite(*(f"tests.{name}" for name in ("cases", "layouts", "recipe", "tolerances")))
