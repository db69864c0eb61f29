"""What items were made of, kept so that another model can read it again."""
