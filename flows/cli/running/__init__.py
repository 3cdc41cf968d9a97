"""Commands that make something: runs, evaluations, studies."""
