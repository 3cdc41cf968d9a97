"""Studies: runs that differ in one setting at a time, and the comparison of their results."""
