"""Bytes in motion: frames, what is said in them and when, and the streams they travel on. Knows nothing of volumes."""
