"""What a valid item is: rules of ids, vectors and metadata, for service, index and feeder alike."""
