"""The protocol without I/O: bytes and times come in as arguments, bytes and decisions go out.

From the bottom up: `noise` is the secure channel, `hello` is what its handshake carries, `records`
and `frames` are what travels in it afterwards, and `machine` is the lossless session, with its
sending half in `outbox`, its receiving half in `window` and open requests in `exchanges`. `phase`
names its states; `budget` and `controls` are its limits. Nothing here imports `asyncio`, reads a
clock or asks for randomness.
"""
