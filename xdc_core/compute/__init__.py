"""Resources of the machine: seeds, threads, GPUs, and the death of a parent process."""
