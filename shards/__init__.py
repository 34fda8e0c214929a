"""The corpus: episodes in compressed tar shards, their index, order, reader and audit."""
