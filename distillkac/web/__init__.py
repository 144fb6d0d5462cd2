"""Runs in a browser: what the page does (engine.py), and the page (page.py)."""
