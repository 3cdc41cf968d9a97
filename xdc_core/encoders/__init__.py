"""The networks that map a clip's tensor to a feature. `registry` has the table of their names."""
