"""Fetching images: lists of addresses, rounds of img2dataset, and what it may open."""
