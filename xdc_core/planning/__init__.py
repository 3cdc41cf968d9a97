"""`xdc plan`: what a run will take, from a small sample of its sources."""
