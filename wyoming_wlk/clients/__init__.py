"""Commands that use the server, or what it is made of."""
