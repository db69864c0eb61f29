"""A small catalogue for a first look: recipes in Korean, and product pictures drawn by code."""
