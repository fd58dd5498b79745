"""What `import lemmabeam` offers; `lemmabeam/__init__.py` here says what of it is public."""
