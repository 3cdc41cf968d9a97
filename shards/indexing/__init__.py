"""New columns for the index of a corpus that is finished."""
