"""The second world of the embedded models: one or two kinds of object a scene, in outlines, tones and edges that vary.

`outlines` draws shapes, `world` scenes of them, `captions` says what is true of a scene, `train` trains a model on both
and `evaluate` measures it. The words and the pairs of colour and shape that training never shows are those of the first
world, `clipref.weights_tools.shapes`.
"""
