"""How one token is drawn: transforms of logits, and keyed random numbers."""
