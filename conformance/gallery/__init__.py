"""The gallery: what the suite finds of other implementations of CLIP, installed from the package index, and why.

`python -m clipref.conformance.gallery` makes an environment for each set of pinned packages, runs the suite on the
adapters in it, keeps what it found in results/, and writes GALLERY.md and gallery.html of that.
"""
