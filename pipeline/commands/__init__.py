"""The commands: each reads its arguments and says what came of it."""
