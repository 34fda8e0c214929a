"""What a size takes, computed before anything is allocated."""
