"""Commands that create or run something: runs, evaluations, studies."""
