"""The paper's figures, one module each. Every function takes plain arrays and returns a matplotlib Figure.

Nothing here touches pyplot or matplotlib's global settings, so that figures can be drawn from any thread of a
server.
"""
