"""Tests mirror the source; requirements.py lists what they prove."""
