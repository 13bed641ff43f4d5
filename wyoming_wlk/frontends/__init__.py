"""Wire protocols: each file translates one protocol's messages to and from sessions, and knows nothing of speech."""
