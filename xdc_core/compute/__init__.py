"""The machine as the method sees it: seeds, threads, GPUs, and the death of a parent process."""
