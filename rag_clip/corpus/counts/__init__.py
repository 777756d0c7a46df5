"""How a corpus is counted in bounded memory."""
