"""Training by gradient: one loop, and what runs on it."""
