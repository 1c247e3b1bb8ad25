"""Live streams for tests: a camera, a network that misbehaves."""
