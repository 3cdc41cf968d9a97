"""The networks that turn a clip's tensor into a feature. `build` has the table of their names."""
