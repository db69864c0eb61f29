"""How likely a hit is what a text asks for."""
