"""What encoding learns from data: second moments of the inputs."""

from fulgurite.calibration.second_moments import second_moments

__all__ = ["second_moments"]
