"""Where the units of a stage are done: in this process, by Slurm, by Ray."""
