"""What encoding learns from data: second moments of the inputs."""
