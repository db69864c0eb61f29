"""Two generations compared before a switch: the same queries to both, what differs, and the gates."""
