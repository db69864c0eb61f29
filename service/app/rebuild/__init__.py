"""A model change while the service serves: a new generation, filled from kept content."""
