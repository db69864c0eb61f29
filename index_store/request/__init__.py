"""What a search may ask for beside the nearest rows of one vector."""
