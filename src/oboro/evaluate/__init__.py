"""How samples, reconstructions and likelihoods are measured, and the protocol that says how a number was obtained."""
