"""Exports: encoders in folders that can be used without the run, and what reads them."""
