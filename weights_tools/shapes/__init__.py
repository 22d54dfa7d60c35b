"""The embedded models: the world they know (`world`), what is said of it (`captions`), the vocabulary learned from that
(`vocabulary`), how they were trained (`train`), what they are worth (`evaluate`), and them at work (`demo`).
"""
