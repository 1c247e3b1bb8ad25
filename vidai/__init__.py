"""Video AI."""
