"""What is measured besides requests: the state of collections, the recall of live searches."""
