"""What a typed query means in the words of a collection."""
