"""What each call sends and what its answer means; openapi.yaml of the service is the contract. No I/O."""
