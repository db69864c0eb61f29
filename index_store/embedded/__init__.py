"""The embedded engine: collections, generations, and exact or approximate search in this process."""
