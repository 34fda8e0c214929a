"""`generate export`: episodes of a corpus in the formats that other libraries read."""
