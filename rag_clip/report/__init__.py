"""HTML reports of results, and their charts."""
