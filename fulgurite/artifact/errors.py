"""The one error that reading an artefact raises."""


class ArtifactError(ValueError):
    """An artefact that cannot be trusted: the file, what was expected there and what was found."""
