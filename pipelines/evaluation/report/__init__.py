"""The report of an evaluation: its page, sections and charts."""
