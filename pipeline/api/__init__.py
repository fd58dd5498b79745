"""The door for Python: what `import lemmabeam` gives, a module a level."""
