"""The artefact: a folder with a compressed network."""
