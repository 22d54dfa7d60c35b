"""`clipref serve`: one port, one copy of the weights, and the clients that already exist.

A request goes through three rooms. A dialect (dialects/) translates it from and to the wire format of its clients; the
core (core.py) decodes images and checks texts in threads, within limits (limits.py); a batcher (batching.py) hands the
items of all requests to the engine, a batch at a time. app.py binds these to HTTP, which needs the extra `server`; the
core needs nothing but clipref.
"""
