"""Is a corpus what it claims to be?"""
