"""Workers in other processes, on this or on other machines: the files of a job, and the doing of its units."""
