"""Studies: many runs that differ in one thing at a time, and what they show side by side."""
