"""What the tests of templates/schedule run in environments of other tools."""
