"""The known fault of a box with fractions, whose pixels are the same whatever Pillow the suite runs with."""

import hashlib

import numpy as np

from clipref.conformance.restated import preprocessing


def test_a_box_with_fractions_is_what_older_versions_of_pillow_give() -> None:
    """The digest is Pillow 12.3's own, of one call; Pillow 13 takes the vertical pass first, up to 23 levels off."""
    image = preprocessing.picture("RGB", 230, 305)
    levels = np.ascontiguousarray(preprocessing.resize(image, 224, preprocessing.Steps(square="box")))
    expected = "3f3c4b3b6adffcf113ad1e689d1794c1eff2dead3864a1bfc0f4c6517193de12"
    assert hashlib.sha256(levels.tobytes()).hexdigest() == expected
