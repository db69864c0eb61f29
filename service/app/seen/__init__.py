"""What was shown under a key of the caller's, so that the next search leaves it out."""
