"""The backend's port, VectorSearcherPort, and what stands behind it for each ML_MODE."""
