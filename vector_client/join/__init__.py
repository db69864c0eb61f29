"""From ids to rows: the backend's tables, joined in the order of the search."""
