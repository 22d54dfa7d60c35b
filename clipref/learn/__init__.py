"""CLIP, opened: eight chapters whose cells and figures the tests run, and exercises that grade themselves.

    clipref learn              lists the chapters
    clipref learn 4            writes the fourth as one page that needs nothing else
    grade("attention", mine)   says whether a function of yours is right, and if not, what is wrong with it

The chapters are the Markdown files beside this one. What they look at is MODEL and RESNET, the embedded models.
"""

from __future__ import annotations

from .grading import Grade as Grade
from .grading import exercises as exercises
from .grading import grade as grade
from .pictures import Picture as Picture
from .pictures import show as show
from .pictures import show_curves as show_curves
from .pictures import show_maps as show_maps
from .pictures import show_matrix as show_matrix

# The models that the chapters look at. After a change: python -m clipref.learn.update
MODEL = "clipref/scenes-vit"
RESNET = "clipref/scenes-rn"
