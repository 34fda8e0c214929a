"""Other ways to store segments of an episode, each a small module that writes and reads them.

All but `ours` import nothing of Palaestra: most run in environments of their own.
"""
