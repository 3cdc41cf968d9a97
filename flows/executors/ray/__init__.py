"""The executor `ray`: units as calls of actors, and the agents of trainings on a placement group."""
