"""What is done beside searches and writes in PostgreSQL: statistics, graphs, their breadth, old versions."""
