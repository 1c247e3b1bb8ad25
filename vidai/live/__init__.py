"""A worker over live streams: read worker.py first."""
