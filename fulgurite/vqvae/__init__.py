"""Autoencoders with vector-quantised codes, one for each category of features, in levels from coarse to fine."""
