"""The executor `slurm`: units as tasks of job arrays, and the agents of trainings as tasks of `srun`."""
