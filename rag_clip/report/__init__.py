"""The pages that show results, and their charts."""
